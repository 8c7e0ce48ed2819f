"""What errors of Ray and of Ray Serve mean to callers of an engine.

What the engine itself raised comes as data and never gets here. Ours is never an answer to a part of a stream that is
tried again: whoever asked decides, from what has been taken.
"""

from __future__ import annotations

import asyncio
import concurrent.futures

from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from orchestrator.errors import EngineFailed, TtcError
from orchestrator.workers.ray.routing import ReplicaGone

EXCEPTIONS = (RayError, RayServeException, ReplicaGone, OSError, TimeoutError, RuntimeError)
"""What may come out of Serve's handles and of actors."""


def is_full(error: BaseException) -> bool:
    """Whether nothing was sent because too much is waiting already."""
    return isinstance(error, BackPressureError)


def engine_failed(error: BaseException, *, model: str) -> TtcError:
    """The error as callers of an engine see it."""
    if isinstance(error, TtcError):
        return error
    reason, is_retryable = _meaning(error)
    return EngineFailed(f"model {model!r} on the cluster: {reason}", model=model, is_retryable=is_retryable)


def _meaning(error: BaseException) -> tuple[str, bool]:
    match error:
        case BackPressureError():
            return "all replicas are busy, and as many requests wait as may (max_queued)", True
        case DeploymentUnavailableError():
            return "it could not be started; see: ttc fleet status", True
        case ReplicaGone() | RayActorError():
            return "the replica that worked on this has died; another one is started", True
        case TaskCancelledError() | asyncio.CancelledError() | concurrent.futures.CancelledError():
            return "the replica was told to stop working on this", True
        case TimeoutError():
            return "nobody answers", True
        case RayTaskError():
            return f"the replica met an unexpected error: {_last_line(error)}", False
        case RayError() | OSError():
            return f"the cluster does not answer: {_last_line(error)}", True
    return f"Ray failed: {_last_line(error)}", True


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines or [type(error).__name__])[-1]:.200}"
