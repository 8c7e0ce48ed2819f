"""What a fleet file asks for that its cluster does not have, and what a replica has to be started anew for. No Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from importlib.metadata import version
from typing import Any, NamedTuple

from orchestrator.fleet_file import FleetFile, ModelEntry

_SCALING = {"replicas", "autoscale", "max_ongoing", "max_queued"}
"""Parts of an entry that change without any replica being started anew."""


class Changes(NamedTuple):
    """What a fleet file asks for that the cluster does not have; models placed with another count with that one."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


def changes_between(old: FleetFile | None, new: FleetFile, *, present: Collection[str]) -> Changes:
    """From what was deployed last to a file.

    Args:
        old: What was deployed last; None for nothing.
        new: The file.
        present: Models that have an application now.
    """
    groups: dict[str, list[str]] = {"added": [], "changed": [], "scaled": [], "same": []}
    for name in places(new):
        kind = "added" if name not in present or old is None else _change(old, new, name)
        groups[kind].append(name)
    removed = tuple(sorted(name for name in present if name not in places(new)))
    return Changes(removed=removed, **{kind: tuple(names) for kind, names in groups.items()})


def places(fleet: FleetFile) -> tuple[str, ...]:
    """Models that have an application of their own: all that are not placed with another."""
    return tuple(name for name, entry in fleet.models.items() if entry.placed_with is None)


def _change(old: FleetFile, new: FleetFile, name: str) -> str:
    before, after = _group(old, name), _group(new, name)
    if before == after:
        return "same"
    if before.keys() == after.keys() and all(_lasting(before[one]) == _lasting(after[one]) for one in after):
        return "scaled"
    return "changed"


def _group(fleet: FleetFile, name: str) -> dict[str, ModelEntry]:
    return {one: fleet.models[one] for one in (name, *fleet.company_of(name)) if one in fleet.models}


def _lasting(entry: ModelEntry) -> dict[str, Any]:  # Any: JSON values
    return entry.model_dump(mode="json", exclude={*_SCALING, "roles", "prices", "start_timeout_s"})


def package_version() -> str:
    """Of this package, here."""
    return version("ttc-orchestrator")


def version_of(fleet: FleetFile, name: str, *, salt: str = "") -> str:
    """Of a model and those placed with it: changes with all that a replica has to be started anew for.

    Args:
        fleet: The fleet.
        name: A model that is not itself placed with another.
        salt: Another one is another version.
    """
    lasting = {one: _lasting(entry) for one, entry in _group(fleet, name).items()}
    text = json.dumps([package_version(), lasting, salt], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
