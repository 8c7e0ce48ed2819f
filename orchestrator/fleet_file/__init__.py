"""``fleet.toml``: what it says (`entries`), reading it, its secrets, and what it means for opening models (`opening`).

What is named here is data: importing it opens nothing, and imports nothing of an engine or of Ray.
"""

from orchestrator.fleet_file.entries import (
    LOCAL,
    MAX_REPLICAS,
    Accelerator,
    Autoscale,
    ClusterEntry,
    FleetFile,
    ModelEntry,
    NodeEntry,
    Prices,
    Replicas,
)
from orchestrator.fleet_file.reading import read_fleet

__all__ = [
    "LOCAL",
    "MAX_REPLICAS",
    "Accelerator",
    "Autoscale",
    "ClusterEntry",
    "FleetFile",
    "ModelEntry",
    "NodeEntry",
    "Prices",
    "Replicas",
    "read_fleet",
]
