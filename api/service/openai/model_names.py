"""What the names of models stand for: ``ttc/auto``, ``ttc/POLICY``, and the fleet's own models and roles."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator import registry
from orchestrator.errors import UnknownName
from orchestrator.fleet import Fleet

PREFIX = "ttc/"
AUTO = PREFIX + "auto"


class Named(NamedTuple):
    """What a model's name says: the policy, and the model that it samples where the name is one of the fleet's."""

    policy: str
    model: str | None = None


def known_names(fleet: Fleet) -> list[str]:
    """All names that `named` takes: policies this fleet can run, then models, then roles."""
    usable = [name for name in registry.names("policy") if fleet.roles.issuperset(registry.load_policy(name).roles)]
    return [AUTO, *(PREFIX + name for name in usable), *fleet.models, *sorted(fleet.roles.difference(fleet.models))]


def named(name: str, fleet: Fleet, *, default_policy: str) -> Named:
    """What a model's name stands for.

    Raises:
        UnknownName: Nothing; the error has all names.
    """
    if name == AUTO:
        return Named(default_policy)
    policy = name.removeprefix(PREFIX)
    if policy != name and policy in registry.names("policy"):
        return Named(policy)
    if name in fleet.models or name in fleet.roles:
        return Named("single", name)
    raise UnknownName(kind="model", name=name, known=known_names(fleet))
