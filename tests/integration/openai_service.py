"""A service behind a real uvicorn on a free port, in the test's own event loop, so that its engine can be watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import uvicorn

from orchestrator import Orchestrator
from orchestrator.api.service.app import create_app
from orchestrator.api.service.service import Service
from orchestrator.config import ServiceSettings
from orchestrator.engine import Engine


@dataclass
class Running:
    """What a test needs of it."""

    service: Service
    base_url: str
    client: openai.AsyncOpenAI

    def sync_client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key="none", max_retries=0, timeout=30)


@asynccontextmanager
async def running(
    engine: Engine | str, *, settings: ServiceSettings | None = None, **roles: Any
) -> AsyncIterator[Running]:
    async with Orchestrator(engine, **roles) as orchestrator, Service(orchestrator, settings=settings) as service:
        config = uvicorn.Config(create_app(service), port=0, lifespan="off", log_level="warning", ws="none")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # the test's own process
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            base_url = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=30) as client:
                yield Running(service, base_url, client)
        finally:
            server.should_exit = True
            await serving


async def until(condition: Any, *, timeout_s: float = 5.0) -> None:
    """Waits for something to become true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # conditions of all kinds
            await asyncio.sleep(0.01)
