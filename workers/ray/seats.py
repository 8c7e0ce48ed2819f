"""What a replica is told to open: models of the fleet file that run in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seat:
    """One model of a replica.

    Attributes:
        name: What the fleet calls it.
        entry: Its `orchestrator.fleet_file.ModelEntry`, as JSON values.
        opener: ``module:function`` with the signature of an engine's entry point, instead of opening ``entry.model``.
    """

    name: str
    entry: dict[str, Any]  # Any: JSON values
    opener: str = ""
