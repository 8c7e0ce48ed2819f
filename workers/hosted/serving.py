"""The host's side: carries out on the engine what the parent's messages ask for.

A stream takes events from the engine only when its reader has asked for more, and then all that are ready; so what is
on its way, together with what the engine runs ahead, stays within `orchestrator.engine.MAX_UNREAD_TOKENS`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from orchestrator.engine import MAX_UNREAD_TOKENS, Engine, GenerateRequest, GenerationEvent, Message, Prompt, Tokenizes
from orchestrator.workers.hosted.codec import Blobs, decode, encode
from orchestrator.workers.hosted.connection import Connection
from orchestrator.workers.hosted.frames import BadFrameError, Frame
from orchestrator.workers.hosted.protocol import ABILITIES, METHODS, called_with, error_data, event_data

_LOG = logging.getLogger(__name__)

AHEAD_TOKENS = MAX_UNREAD_TOKENS * 3 // 8
"""How far the engine may run ahead of its reader here: as many tokens may be on their way, as many may wait in the
engine, and half as many, one delta, may have been taken from it before they were asked for."""


class Host:
    """Serves one parent.

    Args:
        engine: Who does the work.
        tasks: Where it is done.
    """

    def __init__(self, engine: Engine, tasks: asyncio.TaskGroup) -> None:
        self._engine = engine
        self._model = engine.describe().name
        self._tasks = tasks
        self._connection: Connection | None = None
        self._streams: dict[int, _Stream] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._due: list[_Stream] = []
        self.is_over = asyncio.Event()

    def opened(self) -> list[Any]:  # Any: JSON values
        """What the parent is told when the engine is open."""
        abilities = [name for name, protocol in ABILITIES.items() if isinstance(self._engine, protocol)]
        empty = 0
        if isinstance(self._engine, Tokenizes):
            empty = self._engine.count_prompt_tokens(Prompt((Message("user", ""),)))
        description = self._engine.describe()
        return ["opened", encode(type(description), description, []), abilities, empty]

    def attach(self, connection: Connection) -> None:
        """Where answers go."""
        self._connection = connection

    def take(self, frame: Frame) -> None:
        """Carries out one message."""
        match frame.message:
            case ["generate", number, request]:
                self._begin(number, request, frame.blobs)
            case ["more", numbers]:
                for number in numbers:
                    if number in self._streams:
                        self._streams[number].give_more()
            case ["cancel", number] if number in self._streams:
                self._streams[number].cancel()
            case ["close", number] if number in self._streams:
                self._streams.pop(number).close()
            case ["call", number, name, given, named]:
                self._calls[number] = self._tasks.create_task(self._call(number, name, given, named, frame.blobs))
            case ["drop", number] if number in self._calls:
                self._calls.pop(number).cancel()
            case ["bye"]:
                self.is_over.set()

    def answer_at_once(self, frame: Frame, connection: Connection) -> None:
        """Carries out a call about the vocabulary, for which the parent's event loop waits."""
        _, number, name, given, named = frame.message
        if name not in _AT_ONCE:
            raise BadFrameError(f"{name!r:.40} is not answered at once")
        try:
            arguments, options = called_with(name, given, named, frame.blobs)
            value = getattr(self._engine, name)(*arguments, **options)
            connection.send(["result", number, encode(METHODS[name].result, value, [])])
        except Exception as error:  # noqa: BLE001  # the parent is told
            connection.send(["error", number, error_data(error, model=self._model)])

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being worked on."""
        streams = [stream.task for stream in self._streams.values() if stream.task is not None]
        return [*streams, *self._calls.values()]

    # For streams

    def send(self, message: list[Any], blobs: Blobs | None = None) -> None:  # Any: JSON values
        """Sends a message to the parent."""
        assert self._connection is not None, "attached before the first message"
        self._connection.send(message, blobs or [])

    def ended(self, number: int, error: Exception | None) -> None:
        """A stream has ended: its last events go out, then the news of its end."""
        if self._streams.pop(number, None) is not None:
            self._flush()
            self.send(["end", number, None if error is None else error_data(error, model=self._model)])

    def soon(self, stream: _Stream) -> None:
        """Sends what the stream has collected, with that of others, once no more of it is ready."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.append(stream)

    def _flush(self) -> None:
        blobs: Blobs = []
        parcels = [[stream.number, [event_data(event, blobs) for event in stream.collected()]] for stream in self._due]
        self._due.clear()
        if parcels := [parcel for parcel in parcels if parcel[1]]:
            self.send(["events", parcels], blobs)

    # Inside

    def _begin(self, number: int, data: Any, blobs: Blobs) -> None:  # Any: JSON values
        try:
            request: GenerateRequest = decode(GenerateRequest, data, blobs)
        except Exception as error:  # noqa: BLE001  # the parent is told
            self.send(["end", number, error_data(error, model=self._model)])
            return
        allowed = min(request.max_unread_tokens, AHEAD_TOKENS)
        request = replace(request, request_id=f"{number}/{request.request_id}", max_unread_tokens=allowed)
        stream = self._streams[number] = _Stream(self, number, self._engine, request)
        stream.task = self._tasks.create_task(stream.run())

    async def _call(self, number: int, name: str, given: Any, named: Any, blobs: Blobs) -> None:  # Any: JSON values
        try:
            message, arrays = await self._called(number, name, given, named, blobs)
            self.send(message, arrays)
        except Exception as error:  # noqa: BLE001  # the parent is told
            self.send(["error", number, error_data(error, model=self._model)])
        finally:
            self._calls.pop(number, None)

    async def _called(
        self, number: int, name: str, given: Any, named: Any, blobs: Blobs
    ) -> tuple[list[Any], Blobs]:  # Any: JSON values
        arguments, options = called_with(name, given, named, blobs)
        method = getattr(self._engine, name, None)
        if method is None and name == "check_integrity":
            return ["result", number, None], []
        value = method(*arguments, **options)  # type: ignore[misc]  # the parent calls what the engine has
        if inspect.isawaitable(value):
            value = await value
        arrays: Blobs = []
        return ["result", number, encode(METHODS[name].result, value, arrays)], arrays


_AT_ONCE = ("count_prompt_tokens", "tokenize", "detokenize")


class _Stream:
    """One request that the engine is working on."""

    def __init__(self, host: Host, number: int, engine: Engine, request: GenerateRequest) -> None:
        self.number = number
        self.task: asyncio.Task[None] | None = None
        self._host = host
        self._engine = engine
        self._request = request
        self._outgoing: list[GenerationEvent] = []
        self._held: list[GenerationEvent] = []  # came when nobody had asked for more; one at most
        self._is_wanted = asyncio.Event()  # the reader has taken everything it was sent
        self._is_wanted.set()
        self._has_begun = False
        self._is_cancelled = False

    def give_more(self) -> None:
        """The reader waits; what was held goes alone."""
        if self._held:
            self._outgoing, self._held = self._held, []
            self._host.soon(self)
        else:
            self._is_wanted.set()

    def cancel(self) -> None:
        """Ends the request in the engine."""
        self._is_cancelled = True
        if self._has_begun:
            self._engine.cancel(self._request.request_id)

    def close(self) -> None:
        """Nobody reads it any more."""
        if self.task is not None:
            self.task.cancel()

    def collected(self) -> list[GenerationEvent]:
        """The events to send now; the next ones have to be asked for."""
        events, self._outgoing = self._outgoing, []
        self._is_wanted.clear()
        return events

    async def run(self) -> None:
        """Reads the engine's stream to its end."""
        error: Exception | None = None
        try:
            stream = self._engine.generate(self._request)
            try:
                while (event := await self._next(stream)) is not None:
                    self._take(event)
            finally:
                await _close(stream)
        except Exception as raised:  # noqa: BLE001  # the parent is told
            error = raised
        if self._held:
            self.give_more()
        self._host.ended(self.number, error)

    def _take(self, event: GenerationEvent) -> None:
        if not self._is_wanted.is_set():
            self._held.append(event)
            return
        self._outgoing.append(event)
        if len(self._outgoing) == 1:
            self._host.soon(self)

    async def _next(self, stream: AsyncIterator[GenerationEvent]) -> GenerationEvent | None:
        await self._is_wanted.wait()
        if not self._has_begun:
            self._has_begun = True
            if self._is_cancelled:  # the engine knows the request once it has taken its first step
                asyncio.get_running_loop().call_soon(self._engine.cancel, self._request.request_id)
        return await anext(stream, None)


async def _close(stream: AsyncIterator[GenerationEvent]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
