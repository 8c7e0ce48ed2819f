"""``ttc mcp``: an MCP server, so that agents can hand in problems as tool calls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click

from orchestrator.api.terminal.options import (
    ModelChoice,
    embedder_option,
    fleet_option,
    model_options,
    store_options,
    store_path,
)
from orchestrator.budget import Budget
from orchestrator.config import Settings, read_settings
from orchestrator.errors import InvalidRequest, MissingDependency

if TYPE_CHECKING:
    from orchestrator.api.mcp import Desk

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@click.command()
@click.option("--url", metavar="URL", help="Hand jobs to a running service (ttc serve); its key is $TTC_API_KEY.")
@click.option("--http", metavar="[HOST:]PORT", help="Serve over HTTP on this machine instead of stdin and stdout.")
@click.option(
    "--budget", metavar="CAPS", help="Caps on every job, e.g. tokens=20000,seconds=300; calls may ask for less."
)
@model_options
@embedder_option
@fleet_option
@store_options
@click.option("--no-store", is_flag=True, help="Keep jobs in memory only.")
def mcp(
    *,
    url: str | None,
    http: str | None,
    budget: str | None,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    embedder: str | None,
    fleet: str | None,
    store: str | None,
    no_store: bool,
) -> int:
    """Serve the Model Context Protocol: tools solve, start_job, job_status, job_result and cancel_job.

    Agents start it themselves; stdin and stdout carry the protocol and nothing else. Jobs run in this process with the
    models that --model and its like name, as with ttc solve, or with --url at a service. Jobs still running when the
    client leaves are cancelled.

    \b
    Examples:
      ttc mcp --budget tokens=20000,seconds=300
      ttc mcp --url http://127.0.0.1:8000
      ttc mcp --http 8765            (clients connect to http://127.0.0.1:8765/mcp)
    """  # noqa: D301  # click wants the character
    if store is not None and no_store:
        raise InvalidRequest("--store and --no-store contradict each other", field="store", value=store)
    choice = ModelChoice.of_options(model, large, verifier_model, embedder, fleet=fleet)
    is_local = any((model, large, verifier_model, embedder, fleet, store, no_store))
    if url is not None and is_local:
        raise InvalidRequest("--url has a service do the work; models and stores are the service's", field="url")
    limits = Budget.parse(budget or "")
    try:
        from orchestrator.api.mcp.server import HttpAddress, serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"mcp", "mcp_types"}:
            raise
        raise MissingDependency(package="mcp", extra="mcp", purpose="ttc mcp") from None
    address = None if http is None else HttpAddress(*_address(http))
    settings = read_settings()
    kept_in = "memory:" if no_store else store_path(store, settings)
    open_desk = _remote(url) if url is not None else _local(choice, kept_in, settings)
    asyncio.run(serve(open_desk, limits=limits, http=address))
    return 0


def _remote(url: str) -> Callable[[], AbstractAsyncContextManager[Desk]]:
    from orchestrator.api.mcp.desks import RemoteDesk
    from orchestrator.client import AsyncClient

    client = AsyncClient(url)  # an address that cannot be used is refused before anything is served

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Desk]:
        async with client:
            yield RemoteDesk(client)

    return opened


def _local(choice: ModelChoice, kept_in: str, settings: Settings) -> Callable[[], AbstractAsyncContextManager[Desk]]:
    from orchestrator.api.mcp.desks import LocalDesk
    from orchestrator.api.terminal.pulling import pull_missing
    from orchestrator.in_process import Orchestrator

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Desk]:
        await asyncio.to_thread(pull_missing, choice.names(settings), is_quiet=True)
        orchestrator = Orchestrator(**choice.arguments(), store=kept_in, settings=settings)
        async with LocalDesk.opened(orchestrator) as desk:
            yield desk

    return opened


def _address(text: str) -> tuple[str, int]:
    """The host and the port; no other machine may be let in, for there are no keys here.

    Raises:
        InvalidRequest: It cannot be read or used, or is not of this machine.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidRequest(f"--http must be a port, or HOST:PORT, not {text!r}", field="http", value=text)
    if host not in _LOOPBACK:
        raise InvalidRequest(
            f"--http serves this machine only, since MCP has no keys here; {host!r} is not one of "
            f"{', '.join(sorted(_LOOPBACK))}",
            field="http",
            value=text,
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {text}: {error.strerror}; choose another port", field="http") from None
    return host, int(port)
