"""One stream of a caller: the Serve call that carries it, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from orchestrator.engine import GenerationEvent
from orchestrator.errors import EngineFailed
from orchestrator.workers.ray.failures import EXCEPTIONS, engine_failed, is_full
from orchestrator.workers.ray.line import Line
from orchestrator.workers.ray.routing import Routing
from orchestrator.workers.ray.values import answer


class Full(Exception):
    """Nothing was sent: as many calls wait as may."""


class Interrupted(Exception):
    """The stream was cancelled while something was waited for."""


class Live:
    """A request that waits for a replica, or is being served by one.

    Args:
        key: Names its stream.
        routing: Where it goes; the router fills in the replica.

    Attributes:
        line: To its replica, once it is known.
        parcels: What carries it, once it was sent.
        is_cancelled: Whether `cancel` was called.
        news: Done when it is cancelled before its replica is known, or has failed.
    """

    def __init__(self, key: str, routing: Routing) -> None:
        self.key = key
        self.routing = routing
        self.line: Line | None = None
        self.parcels: Parcels | None = None
        self.is_cancelled = False
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: EngineFailed | None = None

    def cancel(self) -> None:
        """Ends the request, with exact counts."""
        if self.is_cancelled:
            return
        self.is_cancelled = True
        if self.line is not None:
            self.line.cancel(self.key)
        else:
            self._tell()

    def fail(self, error: EngineFailed) -> None:
        """Ends the stream with an error."""
        self._failure = self._failure or error
        self._tell()

    def heed(self) -> None:
        """Takes note of the news.

        Raises:
            EngineFailed: What it failed with.
            Interrupted: It was cancelled.
        """
        if self._failure is not None:
            raise self._failure
        if self.news.done():
            self.news = asyncio.get_running_loop().create_future()
            raise Interrupted

    def _tell(self) -> None:
        if not self.news.done():
            self.news.set_result(None)


class Parcels:
    """The chunks of one Serve call.

    Args:
        response: Serve's generator.
        model: For errors.
    """

    def __init__(self, response: Any, *, model: str) -> None:  # Any: Serve's DeploymentResponseGenerator
        self._response = response
        self._items = aiter(response)
        self._model = model
        self._coming: asyncio.Future[bytes] | None = None
        self._is_over = False

    async def next(self, live: Live, *, until: float | None) -> list[GenerationEvent] | None:
        """The next chunk; None at the end.

        Args:
            live: Its news end the waiting.
            until: So does this time of the loop's clock.

        Raises:
            TimeoutError: Neither a chunk nor news came in time.
            Interrupted: The stream was cancelled; the chunk is still to come.
            Full: Nothing was sent.
            TtcError: What the stream ended with.
        """
        live.heed()
        if self._coming is None:
            self._coming = asyncio.ensure_future(anext(self._items))
        if not self._coming.done():
            timeout = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
            awaited: set[asyncio.Future[Any]] = {self._coming, live.news}  # Any: two types
            await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not self._coming.done() or self._is_over:
            live.heed()
            raise TimeoutError
        coming, self._coming = self._coming, None
        try:
            return self._chunk(coming)
        except Exception:
            self._is_over = True
            raise

    async def aclose(self) -> None:
        """Nobody reads it any more: the call is taken back, wherever it is; safe to call twice."""
        is_over, self._is_over = self._is_over, True
        with contextlib.suppress(*EXCEPTIONS, asyncio.CancelledError):
            if not is_over:
                self._response.cancel()
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait({self._coming})
            if not self._coming.cancelled():
                self._coming.exception()  # nobody wants to know it

    def _chunk(self, coming: asyncio.Future[bytes]) -> list[GenerationEvent] | None:
        try:
            data = coming.result()
        except StopAsyncIteration:
            self._is_over = True
            return None
        except (asyncio.CancelledError, *EXCEPTIONS) as error:  # a call that is ended elsewhere looks cancelled here
            if is_full(error):
                raise Full from error
            raise engine_failed(error, model=self._model) from error
        chunk: list[GenerationEvent] = answer(data)
        return chunk
