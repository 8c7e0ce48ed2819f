"""One call of a replica, to its answer; and how long to wait where too many wait already."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.workers.ray.failures import EXCEPTIONS, engine_failed, is_full
from orchestrator.workers.ray.values import answer

_FIRST_BACKOFF_S = 0.05
_LONGEST_BACKOFF_S = 2.0


async def called(call: Callable[[], Any], *, model: str, within_s: float) -> Any:  # Any: Serve's, and its result
    """Makes a call of a replica; again while too many wait for their turn, since nothing is sent then.

    Raises:
        TtcError: What the method raised.
        EngineFailed: No replica answered.
    """
    try:
        async with asyncio.timeout(within_s):
            for attempt in itertools.count():
                try:
                    return answer(await _response(call()))
                except EXCEPTIONS as error:
                    if not is_full(error):
                        raise engine_failed(error, model=model) from error
                await asyncio.sleep(backoff_s(attempt))
    except TimeoutError:
        raise engine_failed(TimeoutError(), model=model) from None


async def _response(response: Any) -> bytes:  # Any: Serve's DeploymentResponse
    """What comes back; a call that is not awaited any more is taken back."""
    coming: asyncio.Future[bytes] = asyncio.ensure_future(_awaited(response))
    try:
        await asyncio.wait({coming})
    except asyncio.CancelledError:
        with contextlib.suppress(*EXCEPTIONS, asyncio.CancelledError):
            response.cancel()
        coming.cancel()
        raise
    if coming.cancelled():  # a call that is ended elsewhere looks like this
        raise RuntimeError("the call was ended")
    return coming.result()


async def _awaited(response: Awaitable[bytes]) -> bytes:
    return await response


def backoff_s(attempt: int) -> float:
    """How long to wait before the next attempt, after so many, from 0."""
    longest_s = min(_FIRST_BACKOFF_S * 2.0 ** min(attempt, 20), _LONGEST_BACKOFF_S)
    return random.uniform(0.5, 1.0) * longest_s  # noqa: S311  # spreads callers
