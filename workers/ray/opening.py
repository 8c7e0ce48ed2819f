"""Entry point of ``ray:NAME``: model NAME of the fleet that runs on a cluster."""

from __future__ import annotations

from orchestrator.config import Settings
from orchestrator.engine import Engine


async def open_ray(target: str, settings: Settings) -> Engine:
    """Model ``target`` of the fleet that runs on the configured cluster."""
    raise NotImplementedError
