"""Opens the models of a fleet file: in this process, or as they run on its cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping

from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.fleet import Fleet
from orchestrator.fleet_file import FleetFile, ModelEntry


def engine_settings(entry: ModelEntry, settings: Settings, *, environ: Mapping[str, str] | None = None) -> Settings:
    """The configuration with the entry's engine arguments in place of its own: what ``open_model(entry.model, ...)``
    is to be given, also in a replica.

    Args:
        entry: The model.
        settings: The configuration of the process that opens it.
        environ: Variables that ``${NAME}`` stands for; those of this process by default.

    Raises:
        InvalidRequest: An argument is unknown, has no such value, or names a variable that is not set.
    """
    raise NotImplementedError((entry, settings, environ, os.environ))


async def open_fleet_file(fleet: FleetFile, *, settings: Settings, opened: list[Engine]) -> Fleet:
    """The open models of a fleet file, by their names there: from its cluster if it has one, else in this process.

    Args:
        fleet: The file.
        settings: The configuration.
        opened: Is given each engine that is opened here, also when a later one fails; the caller closes them.
    """
    raise NotImplementedError((fleet, settings, opened))
