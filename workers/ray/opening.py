"""Entry point of ``ray:NAME``: model NAME of the fleet that runs on a cluster.

A process that is in a Ray cluster is ended by Ray when it loses the cluster (its control store does not answer for a
minute, or the machine's own Ray ends). No service may end like that, so another process is in the cluster for it: the
engine is hosted, as `orchestrator.workers.hosted` hosts any, and what that one's death means is known there.
"""

from __future__ import annotations

import os

from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest
from orchestrator.workers.hosted.opening import open_engine as open_hosted_engine
from orchestrator.workers.hosted.pacing import Pacing

_HERE = f"{__name__}:open_here"
_BEGINNING_S = 60.0
_LOST = 70
"""Exit code of a process that has lost its cluster."""
_NEEDED = ("XDG_STATE_HOME",)
"""Where the Ray of this machine is noted."""


async def open_ray(target: str, settings: Settings) -> Engine:
    """Model ``target`` of the fleet that runs on the configured cluster.

    Raises:
        MissingDependency: Ray is not installed.
        ServiceFailed: The cluster cannot be reached, or no fleet runs there.
        UnknownName: It has no such model.
        EngineFailed: No replica is ready in time.
    """
    from orchestrator.workers.ray.local import require_ray

    require_ray()
    _checked(target)
    if not settings.ray.isolated:
        return await open_here(target, settings)
    from orchestrator.workers.ray.cluster import address_of

    located = settings.ray.model_copy(update={"address": address_of(settings.ray)})
    return await open_hosted_engine(
        target,
        settings=settings.model_copy(update={"ray": located}),
        opener=_HERE,
        pacing=Pacing(start_s=settings.ray.open_s + _BEGINNING_S),
        variables={
            name: os.environ[name] for name in os.environ if name.startswith("RAY_") or name == "XDG_STATE_HOME"
        },
    )


async def open_here(target: str, settings: Settings) -> Engine:
    """As `open_ray`, with this process in the cluster.

    Raises:
        TtcError: As `open_ray`.
    """
    from orchestrator.workers.ray.cluster import MEMBERSHIP, handle_of

    _checked(target)
    await MEMBERSHIP.join(settings.ray)
    try:
        from orchestrator.workers.ray.engine import open_engine

        handle, application = await handle_of(target, settings.ray)
        on_lost = _end_process if settings.ray.isolated else _stay
        return await open_engine(target, handle, application=application, settings=settings.ray, on_lost=on_lost)
    except BaseException:
        await MEMBERSHIP.leave()
        raise


def _end_process() -> None:
    """As Ray does where the cluster is gone; the engine's host is started again, and joins the next one."""
    os._exit(_LOST)


def _stay() -> None:
    """Requests fail retryably from now on."""


def _checked(target: str) -> None:
    if not target:
        raise InvalidRequest(
            "write ray:NAME, where NAME is a model of the fleet that runs on the cluster; see: ttc fleet status",
            field="model",
            value=target,
        )
