"""One process of the service: opens models and store, listens if it is to, runs jobs, and ends as signals ask it to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing import parent_process
from typing import Any

import uvicorn

from orchestrator.api.service.app import create_app
from orchestrator.api.service.observing import Observing, log_as_json
from orchestrator.api.service.security.connections import MAX_HEADER_BYTES, impatient_protocol
from orchestrator.api.service.security.gate import Gate, is_loopback, must_stay_on_loopback
from orchestrator.api.service.service import Service
from orchestrator.api.terminal.log import is_debugging
from orchestrator.api.terminal.options import ModelChoice
from orchestrator.config import Settings
from orchestrator.errors import InvalidRequest
from orchestrator.in_process import Orchestrator
from orchestrator.stores import open_store
from orchestrator.stores.opening import shown_store
from orchestrator.workers.hosted import hosted_by_default

_LOG = logging.getLogger(__name__)

_BACKLOG = 2048
_SPREADS = sys.platform == "linux"
"""Elsewhere connections to sockets with one address are not spread, and processes accept from the same socket."""
_CLOSE_S = 5
"""Responses that are under way when everything else has ended have so long."""
_GC_OBJECTS = 5000
"""So many new objects are looked through at once for what is unreachable: a job in flight has some thousand, which
Python's 700 would be looked through again and again. 0.18 in place of 0.32 ms of CPU time for a chat."""
CTRL_C = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a process is to serve; can be sent to other processes.

    Attributes:
        settings: The configuration, with the options of the command in it.
        models: Which models.
        store: Where jobs are kept.
        is_worker: It is one of several, which a parent process starts and ends.
    """

    settings: Settings
    models: ModelChoice = field(default_factory=ModelChoice)
    store: str = "memory:"
    is_worker: bool = False


class Stop:
    """Whether somebody asked the process to stop.

    Attributes:
        signal_number: The first signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._asked = asyncio.Event()

    def ask(self, signal_number: int | None = None) -> None:
        """Asks it."""
        self.signal_number = self.signal_number or signal_number
        self._asked.set()

    async def wait(self) -> None:
        """Returns when it was asked to."""
        await self._asked.wait()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; 0 after SIGTERM, which is how a service is stopped."""
        return CTRL_C if self.signal_number == signal.SIGINT else 0


def listening_socket(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A socket that listens, or, where processes share the address, one that keeps it for them (see `own_listener`).

    Raises:
        InvalidRequest: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
        if is_shared and _SPREADS:
            listener = _kept_address(listener)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise InvalidRequest(
            f"cannot listen on {host}:{port}: {reason}; choose another address with --host and --port",
            field="port",
            value=port,
        ) from None
    # Connections inherit it. asyncio sets it only where a socket says that its protocol is TCP, and this one does not;
    # a response's body would wait some 40 ms for the other side's delayed acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _kept_address(listener: socket.socket) -> socket.socket:
    """A socket that is bound as ``listener`` is, and does not listen; nobody else had the address a moment ago."""
    address = listener.getsockname()
    listener.close()
    keeper = socket.socket(listener.family, socket.SOCK_STREAM)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.bind(address)
    return keeper


def own_listener(shared: socket.socket) -> socket.socket:
    """The socket at which one of several processes listens.

    The kernel spreads connections over those that have one each. Of processes that accept from one socket the first to
    wake up takes all that wait, and keeps them.
    """
    if not _SPREADS:
        return shared
    listener = socket.create_server(shared.getsockname(), family=shared.family, backlog=_BACKLOG, reuse_port=True)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shared.close()
    return listener


def address_of(listener: socket.socket) -> str:
    """Where browsers find it."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # what is listened on is shown, not chosen
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(work: Coroutine[Any, Any, int]) -> int:  # Any: as in asyncio
    """Runs a process to its exit code: in uvloop's event loop, which takes less CPU time, where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


async def serve(serving: Serving, listener: socket.socket, *, on_ready: Callable[[Orchestrator, bool], None]) -> int:
    """Serves HTTP and runs queued jobs until a signal comes; returns the exit code.

    Args:
        serving: What.
        listener: Where; closed in the end.
        on_ready: Called when requests are served, with the models and whether no API key is needed.

    Raises:
        InvalidRequest: It would be reached from other machines without keys.
    """
    settings = serving.settings
    host: str = listener.getsockname()[0]
    is_open = await _is_open(serving, host)
    async with _observed(settings) as observing, _opened(serving, observing) as service:
        store = service.orchestrator.store
        gate = Gate(store, is_key_required=not is_loopback(host), cache_s=settings.service.key_cache_s)
        server = _Server(_config(service, gate, observing))
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through again and again
        gc.set_threshold(_GC_OBJECTS, 10, 10)
        stop = Stop()
        with _stopping(stop, is_worker=serving.is_worker):
            async with asyncio.TaskGroup() as tasks:
                ending = tasks.create_task(_end_gently(stop, service, server))
                on_ready(service.orchestrator, is_open)
                await server.serve(sockets=[listener])
                ending.cancel()
        return stop.exit_code


async def _is_open(serving: Serving, host: str) -> bool:
    """Whether callers need no key; looked at before models are opened, which takes time.

    Raises:
        InvalidRequest: There is no key, and other machines would reach the service.
    """
    store = await open_store(serving.store)
    try:
        is_open = await must_stay_on_loopback(store)
    finally:
        await store.aclose()
    if is_open and not is_loopback(host):
        raise InvalidRequest(
            f"without API keys the service listens on this machine only, not on {host}; make a key first: "
            f"ttc keys create --tenant NAME --store {shown_store(serving.store)}",
            field="host",
            value=host,
        )
    return is_open


async def control(serving: Serving, *, on_ready: Callable[[Orchestrator], None]) -> int:
    """Runs queued jobs until a signal comes; returns the exit code."""
    async with _observed(serving.settings) as observing, _opened(serving, observing) as service:
        stop = Stop()
        with _stopping(stop, is_worker=serving.is_worker), observing.served(serving.settings.service):
            on_ready(service.orchestrator)
            await stop.wait()
            await service.drain()
        return stop.exit_code


@asynccontextmanager
async def _observed(settings: Settings) -> AsyncIterator[Observing]:
    """Metrics, traces and logs of this process, as the settings and the ``OTEL_`` variables ask for them."""
    if settings.service.log == "json" or (settings.service.log == "auto" and not sys.stderr.isatty()):
        log_as_json(shows_details=is_debugging())
    observing = Observing.from_environment()
    try:
        yield observing
    finally:
        await asyncio.to_thread(observing.close)


@asynccontextmanager
async def _opened(serving: Serving, observing: Observing) -> AsyncIterator[Service]:
    choice = serving.models.opened_by(hosted_by_default, serving.settings)
    async with (
        Orchestrator(**choice.arguments(), store=serving.store, settings=serving.settings) as orchestrator,
        observing.watching(orchestrator.fleet),
        Service(orchestrator, observers=observing.observers) as service,
    ):
        yield service


async def _end_gently(stop: Stop, service: Service, server: _Server) -> None:
    """What runs may come to its end while requests are still answered; then the server ends."""
    await stop.wait()
    await service.drain()
    server.should_exit = True


def _config(service: Service, gate: Gate, observing: Observing) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        create_app(service, gate=gate, observing=observing),
        http=impatient_protocol(settings.header_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=_CLOSE_S,
    )


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Nothing is captured."""
        yield


@contextlib.contextmanager
def _stopping(stop: Stop, *, is_worker: bool) -> Iterator[None]:
    """Asks for an end on the first signal, and leaves at once on the second.

    A worker leaves Ctrl-C to its parent, and ends when that has died.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if stop.signal_number is not None:
            os._exit(128 + number)
        if not is_worker:
            with contextlib.suppress(OSError):
                print("stopping when what runs has ended; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        stop.ask(number)

    loop.add_signal_handler(signal.SIGTERM, handle, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGINT, (lambda _: None) if is_worker else handle, signal.SIGINT)
    parent = parent_process() if is_worker else None
    if parent is not None:
        loop.add_reader(parent.sentinel, _orphaned, loop, parent.sentinel, stop)
    try:
        yield
    finally:
        if parent is not None:
            loop.remove_reader(parent.sentinel)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _orphaned(loop: asyncio.AbstractEventLoop, sentinel: int, stop: Stop) -> None:
    loop.remove_reader(sentinel)
    _LOG.error("the process that started this one has died")
    stop.ask()
