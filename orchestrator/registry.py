"""Finds policies, verifiers, engines, answer readers and commands by name, through entry points.

That is how the ground floor uses the floors above it without importing them, and how other packages add theirs.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.policy import PolicySpec, as_policy

Kind = Literal["policy", "verifier", "router", "engine", "answer reader", "command"]

GROUPS: dict[Kind, str] = {
    "policy": "orchestrator.policies",
    "verifier": "orchestrator.verifiers",
    "router": "orchestrator.routers",
    "engine": "orchestrator.engines",
    "answer reader": "orchestrator.answers",
    "command": "orchestrator.commands",
}


@functools.cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUPS[kind])}


def names(kind: Kind) -> tuple[str, ...]:
    """The names that exist, sorted."""
    return tuple(sorted(_entries(kind)))


def load(kind: Kind, name: str) -> Any:  # Any: what an entry point gives depends on its group
    """What is registered under a name.

    Raises:
        UnknownName: Nothing is; the error lists what exists.
    """
    entry = _entries(kind).get(name)
    if entry is None:
        raise UnknownName(kind=kind, name=name, known=names(kind))
    return entry.load()


def load_policy(name: str) -> PolicySpec:
    """A policy by its registered name, or by ``module:function``.

    Raises:
        UnknownName: There is none.
        InvalidRequest: What the name leads to is no policy.
    """
    if ":" not in name:
        return as_policy(load("policy", name))
    module_name, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module_name)  # Any: a user's module
        for part in path.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        hint = f"{name!r} cannot be imported: {error}"
        raise UnknownName(kind="policy", name=name, known=names("policy"), hint=hint) from None
    except Exception as error:
        raise InvalidRequest(f"importing {name!r} failed: {error!r}", field="policy", value=name) from error
    return as_policy(value)
