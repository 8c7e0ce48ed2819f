"""The command ``ttc bench``: one module for each of its commands."""

from orchestrator.bench.commands.group import bench

__all__ = ["bench"]
