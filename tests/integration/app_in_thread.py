"""The real application on a free port of this machine, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from orchestrator import Orchestrator
from orchestrator.api.service.app import create_app
from orchestrator.api.service.service import Service
from orchestrator.testing import ScriptedEngine

_T = TypeVar("_T")
_START_S = 30.0
_WORK_S = 20.0


@dataclass(frozen=True)
class Running:
    """An application that answers at `address`."""

    address: str
    orchestrator: Orchestrator
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs something in the application's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_WORK_S)


@contextmanager
def running_app(engine: ScriptedEngine, *, store: Path | None = None) -> Iterator[Running]:
    """The application with one model, for as long as the context is open."""
    ready = threading.Event()
    found: list[tuple[Running, uvicorn.Server]] = []
    failures: list[BaseException] = []

    async def serve() -> None:
        async with Orchestrator(engine, store=store) as orchestrator, Service(orchestrator) as service:
            config = uvicorn.Config(create_app(service), log_config=None, lifespan="off", ws="none")
            server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            found.append((Running(address, orchestrator, asyncio.get_running_loop()), server))
            ready.set()  # whoever connects from now on is served in the end
            await server.serve(sockets=[listener])

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(_START_S)
        if failures:
            raise failures[0]
        yield found[0][0]
    finally:
        if found:
            found[0][1].should_exit = True
        thread.join(_WORK_S)
    assert not thread.is_alive()
    assert not failures
