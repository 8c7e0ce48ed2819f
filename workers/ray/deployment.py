"""From a model of the fleet file to the Serve application that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.fleet_file import FleetFile

if TYPE_CHECKING:
    from ray.serve import Application

DEPLOYMENT = "engine"
"""The one deployment of an application."""


def application_name(name: str, *, namespace: str) -> str:
    """The Serve application of a model; a model that is placed with another is served by that one's application."""
    return f"{namespace}.{name}"


def application(
    fleet: FleetFile, name: str, *, runtime_env: Mapping[str, Any] | None = None
) -> Application:  # Any: as Ray takes it
    """The application of a model and of those placed with it; to be run with ``route_prefix=None``.

    Args:
        fleet: The fleet.
        name: A model that is not itself placed with another.
        runtime_env: Environment of the replicas, as Ray takes it.
    """
    raise NotImplementedError
