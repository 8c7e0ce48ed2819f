"""Opens engines in processes of their own: by the text that names a model, or by a function of one's own."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.config import Settings, read_settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest
from orchestrator.models import DEFAULT_ENGINE, open_model, split_model
from orchestrator.workers.hosted.engine import HostedEngine, hosted_class
from orchestrator.workers.hosted.keeper import Keeper
from orchestrator.workers.hosted.link import Link, start_host
from orchestrator.workers.hosted.pacing import Pacing
from orchestrator.workers.hosted.process import host_environment, host_settings

EMBEDDED = (DEFAULT_ENGINE, "lab")
"""Engines that compute in the process that opens them."""

_BY_NAME = "orchestrator.workers.hosted.opening:open_by_name"


def hosted_by_default(model: str) -> str:
    """How a server opens a model: an embedded engine goes into a process of its own, anything else stays as it is.

    Beside a busy event loop an embedded engine loses most of its speed, and an abort in native code would end the
    server with it.
    """
    engine, _ = split_model(model)
    return f"hosted:{model}" if engine in EMBEDDED else model


async def open_hosted(target: str, settings: Settings) -> HostedEngine:
    """Entry point of ``hosted:MODEL``, where ``MODEL`` is what would be written without it."""
    return await open_engine(target, settings=settings)


async def open_engine(
    model: str,
    *,
    settings: Settings | None = None,
    opener: str | None = None,
    pacing: Pacing | None = None,
    variables: Mapping[str, str] | None = None,
) -> HostedEngine:
    """Starts a process that hosts an engine.

    Args:
        model: The text that names the model, for instance ``lab:small``; with ``opener``, its target.
        settings: The configuration; as the environment has it by default.
        opener: ``module:function`` with the signature of an engine's entry point, to use instead of the registered one.
            The host imports it with the search path of this process.
        pacing: How long things may take.
        variables: More of the environment that the host inherits.

    Raises:
        TtcError: What opening the engine raises.
        EngineFailed: The process died or took too long.
    """
    settings = settings or read_settings()
    pacing = pacing or Pacing()
    engine = "" if opener is not None else split_model(model)[0]
    if engine == "hosted":
        raise InvalidRequest(f"the model {model!r} is hosted twice; write hosted: once", field="model", value=model)

    async def start() -> Link:
        return await start_host(
            name=model,
            opener=opener or _BY_NAME,
            target=model,
            settings=host_settings(settings, engine),
            environment={**host_environment(settings), **(variables or {})},
            pacing=pacing,
        )

    link = await start()
    return hosted_class(frozenset(link.abilities))(Keeper(start, link, pacing=pacing), link)


async def open_by_name(model: str, settings: Settings) -> Engine:
    """Opens a model in the host."""
    return await open_model(model, settings=settings)
