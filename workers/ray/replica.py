"""`EngineReplica`: what a replica of Ray Serve runs. It opens engines as they are, and serves their protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orchestrator.workers.ray.routing import Routing
from orchestrator.workers.ray.seats import Seat


class EngineReplica:
    """The engines of one replica: a model, and those that run in its place.

    Args:
        seats: What to open; the first is the deployment's own.
    """

    async def __init__(self, *seats: Seat) -> None:
        raise NotImplementedError

    async def generate(self, routing: Routing, model: str, request: bytes) -> AsyncIterator[bytes]:
        """A stream: each item is a list of events, or the error it ends with."""
        raise NotImplementedError
        yield

    async def call(self, routing: Routing, model: str, name: str, arguments: bytes) -> bytes:
        """Calls a method of an engine."""
        raise NotImplementedError

    async def check_health(self) -> None:
        """For Serve: raises if an engine cannot generate."""
        raise NotImplementedError
