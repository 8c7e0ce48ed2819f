"""A service over a scripted engine, and a client that calls its application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from orchestrator import Orchestrator
from orchestrator.api.service.app import create_app
from orchestrator.api.service.callers import caller
from orchestrator.api.service.security.principal import Principal
from orchestrator.api.service.service import Service
from orchestrator.config import ServiceSettings
from orchestrator.stores import MemoryStore
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

PROBLEM = "What is 3 + 4 * 2?"
SLOW = Latency(token_s=0.05)
JOB: dict[str, Any] = {
    "problem": PROBLEM,
    "policy": "self_consistency",
    "params": {"n": 2},
    "budget": {"max_output_tokens": 2000},
}


@dataclass
class Serving:
    """What a test talks to."""

    service: Service
    engine: ScriptedEngine
    client: httpx.AsyncClient
    who: Principal

    @property
    def store(self) -> Any:
        return self.service.orchestrator.store

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers=headers)


@asynccontextmanager
async def serving(
    *,
    store: Any = None,
    latency: Latency | None = None,
    who: Principal | None = None,
    script: Any = None,
    lease_s: float = 60.0,
    **settings: Any,
) -> AsyncIterator[Serving]:
    engine = ScriptedEngine(script or arithmetic(accuracy=0.9), latency=latency or Latency(), tokens_per_delta=1)
    found = Principal() if who is None else who
    async with (
        Orchestrator(engine, store=store or MemoryStore()) as ttc,
        Service(ttc, settings=ServiceSettings(**settings), lease_s=lease_s) as service,
    ):
        app = create_app(service)
        serving = Serving(service, engine, None, found)  # type: ignore[arg-type]  # set below

        async def who_asks() -> Principal:
            return serving.who

        app.dependency_overrides[caller] = who_asks
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            serving.client = client
            yield serving


async def until(is_so: Callable[[], Awaitable[object]], *, within_s: float = 4.0) -> None:
    """Returns when something is so that nobody tells."""
    async with asyncio.timeout(within_s):
        while not await is_so():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.005)
