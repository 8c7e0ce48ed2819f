"""The parent's side of one host process: its streams and calls, from the first message to the last."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Mapping, Set
from typing import Any, NamedTuple

from orchestrator.engine import GenerateRequest, GenerationEvent, ModelDescription
from orchestrator.errors import EngineFailed, InvalidRequest, TtcError
from orchestrator.workers.hosted.codec import Blobs, decode, encode
from orchestrator.workers.hosted.connection import Connection
from orchestrator.workers.hosted.frames import BadFrameError, Frame
from orchestrator.workers.hosted.pacing import Pacing
from orchestrator.workers.hosted.process import HostProcess
from orchestrator.workers.hosted.protocol import METHODS, call_message, error_of, event_of
from orchestrator.workers.hosted.vocabulary import VocabularyChannel

_LOG = logging.getLogger(__name__)


class Stream:
    """The events of one request, as they come from the host."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number
        self._events: deque[GenerationEvent] = deque()
        self._has_news = asyncio.Event()
        self._has_asked = True
        self._is_over = False
        self._error: TtcError | None = None

    async def next(self) -> GenerationEvent | None:
        """The next event; None at the end.

        Raises:
            TtcError: What the stream ended with.
        """
        while not self._events:
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return None
            if not self._has_asked:
                self._has_asked = True
                self._link.ask_for_more(self._number)
            self._has_news.clear()
            await self._has_news.wait()
        return self._events.popleft()

    def cancel(self) -> None:
        """Has the engine end the request; its last events still come."""
        self._link.tell(["cancel", self._number])

    def close(self) -> None:
        """Nobody reads it any more."""
        if not self._is_over:
            self._link.forget_stream(self._number)
            self._link.tell(["close", self._number])

    def deliver(self, events: list[GenerationEvent]) -> None:
        """More events."""
        self._events.extend(events)
        self._has_asked = False
        self._has_news.set()

    def end(self, error: TtcError | None) -> None:
        """No event will follow those there are."""
        self._is_over, self._error = True, error
        self._has_news.set()


class Link:
    """One host that has opened its engine; made by `start_host`.

    Attributes:
        description: The model.
        abilities: Names of the protocols that its engine implements beside `Engine`.
        empty_prompt_tokens: What an empty message comes to; 0 if the engine does not tokenize.
        vocabulary: For calls that block.
        is_lost: Set when the host is gone.
    """

    def __init__(self, process: HostProcess, *, name: str) -> None:
        self.description: ModelDescription
        self.abilities: tuple[str, ...] = ()
        self.empty_prompt_tokens = 0
        self.vocabulary: VocabularyChannel
        self.is_lost = asyncio.Event()
        self._process = process
        self._name = name
        self._connection: Connection
        self._opened: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._number = 0
        self._streams: dict[int, Stream] = {}
        self._calls: dict[int, asyncio.Future[Frame]] = {}
        self._asking: list[int] = []
        self._end: _End | None = None

    @property
    def pid(self) -> int:
        """The host's process id."""
        return self._process.pid

    async def open(self, message: list[Any], pacing: Pacing) -> None:  # Any: JSON values
        """Has the host open its engine.

        Raises:
            TtcError: Why it could not.
            EngineFailed: The host died, or took too long.
        """
        self._connection = await Connection.over(self._process.channel, self._take, self._lost)
        self._connection.send(message)
        try:
            async with asyncio.timeout(pacing.start_s):
                frame = await self._opened
        except TimeoutError:
            raise EngineFailed(
                f"the process that hosts {self._name!r} has not opened its engine within {pacing.start_s:g} s",
                model=self._name,
            ) from None
        if frame.message[0] == "failed":
            raise error_of(frame.message[1])
        _, description, abilities, self.empty_prompt_tokens = frame.message
        self.description = decode(ModelDescription, description, [])
        self.abilities = tuple(abilities)
        self._name = self.description.name
        self.vocabulary = VocabularyChannel(
            self._process.vocabulary_channel, model=self._name, patience_s=pacing.vocabulary_patience_s
        )

    # Work

    async def generate(self, request: GenerateRequest) -> Stream:
        """Sends a request.

        Raises:
            InvalidRequest: It cannot be sent.
        """
        blobs: Blobs = []
        data = encode(GenerateRequest, request, blobs)
        await self._connection.room()
        self._number += 1
        self._send(["generate", self._number, data], blobs)
        stream = Stream(self, self._number)
        if self._end is not None:
            stream.end(self._end.error())
        else:
            self._streams[self._number] = stream
        return stream

    async def call(self, name: str, *arguments: object, **named: object) -> Any:  # Any: what the method returns
        """Calls a method of the engine.

        Raises:
            TtcError: What it raised.
            EngineFailed: The host died.
        """
        await self._connection.room()
        self._number += 1
        number, blobs = self._number, Blobs()
        message = call_message(number, name, arguments, named, blobs)
        if self._end is not None or self.is_lost.is_set():
            raise (self._end or self._died()).error()
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        self._send(message, blobs)
        try:
            frame = await answer
        except asyncio.CancelledError:
            self.tell(["drop", number])
            raise
        finally:
            self._calls.pop(number, None)
        kind, _, value = frame.message
        if kind == "error":
            raise error_of(value)
        return decode(METHODS[name].result, value, frame.blobs)

    def tell(self, message: list[Any]) -> None:  # Any: JSON values
        """Sends a short message."""
        self._connection.send(message)

    def ask_for_more(self, number: int) -> None:
        """A stream's reader has taken everything; asks for all such streams at once."""
        if not self._asking:
            asyncio.get_running_loop().call_soon(self._ask)
        self._asking.append(number)

    def forget_stream(self, number: int) -> None:
        """A stream is not read any more."""
        self._streams.pop(number, None)

    def check_integrity(self, read: Set[Stream]) -> None:
        """Compares the streams that are kept with those that are read.

        Raises:
            AssertionError: One is kept that nobody reads.
        """
        assert set(self._streams.values()) <= read, "a stream is kept that nobody reads"

    # The end

    def kill(self, why: str) -> None:
        """Kills the host; ``why`` continues "the process that hosts the model ..."."""
        self._fail(why, is_retryable=True)
        self._process.kill()

    async def aclose(self, *, within_s: float) -> None:
        """Ends all streams, has the host close its engine, and waits for its end."""
        self._fail("was closed", is_retryable=False)
        if not self.is_lost.is_set():
            self.tell(["bye"])
        await self._process.ended(within_s=within_s)
        self._close_channels()

    async def bury(self) -> str:
        """Waits for the end of a host that is lost, fails what was in flight, and says how it ended."""
        ending = await self._process.ended(within_s=0.5)
        self._fail(ending, is_retryable=True)
        self._close_channels()
        assert self._end is not None, "just set"
        return self._end.why

    # Inside

    def _send(self, message: list[Any], blobs: Blobs) -> None:  # Any: JSON values
        try:
            self._connection.send(message, blobs)
        except (BadFrameError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"the request cannot be sent to the process of a hosted engine: {error}", field="prompt"
            ) from error

    def _ask(self) -> None:
        numbers, self._asking = self._asking, []
        self.tell(["more", numbers])

    def _take(self, frame: Frame) -> None:
        match frame.message:
            case ["events", parcels]:
                for number, events in parcels:
                    if (stream := self._streams.get(number)) is not None:
                        stream.deliver([event_of(event, frame.blobs) for event in events])
            case ["end", number, error]:
                if (stream := self._streams.pop(number, None)) is not None:
                    stream.end(None if error is None else error_of(error))
            case ["result" | "error", number, _]:
                answer = self._calls.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(frame)
            case ["opened", _, _, _] | ["failed", _] if not self._opened.done():
                self._opened.set_result(frame)
            case [kind, *_]:
                raise BadFrameError(f"a host does not say {kind!r:.40}")

    def _lost(self) -> None:
        self.is_lost.set()
        if not self._opened.done():
            self._opened.set_exception(
                EngineFailed(f"the process that hosts {self._name!r} died while it started", model=self._name)
            )
        for answer in self._calls.values():  # the keeper's own among them; `bury` tells streams how the host ended
            if not answer.done():
                answer.set_exception(self._died().error())

    def _died(self) -> _End:
        """What is known before the process has been waited for."""
        return _End(self._name, "died", is_retryable=True)

    def _fail(self, why: str, *, is_retryable: bool) -> None:
        """Ends all that is in flight, once."""
        if self._end is None:
            self._end = _End(self._name, why, is_retryable)
        for stream in self._streams.values():
            stream.end(self._end.error())
        self._streams.clear()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(self._end.error())

    def _close_channels(self) -> None:
        self._connection.abort()
        self._process.vocabulary_channel.close()


class _End(NamedTuple):
    """How a host ended."""

    model: str
    why: str
    is_retryable: bool

    def error(self) -> EngineFailed:
        """What those meet who were waiting for it."""
        again = "; it is being started again" if self.is_retryable else ""
        return EngineFailed(
            f"the process that hosts model {self.model!r} {self.why}{again}",
            model=self.model,
            is_retryable=self.is_retryable,
        )


async def start_host(
    *,
    name: str,
    opener: str,
    target: str,
    settings: Mapping[str, Any],  # Any: JSON values
    environment: Mapping[str, str],
    pacing: Pacing,
) -> Link:
    """Starts a process and has it open an engine.

    Raises:
        TtcError: Why that was not possible.
    """
    link = Link(HostProcess(environment), name=name)
    level = logging.getLogger().getEffectiveLevel()
    try:
        await link.open(["open", opener, target, dict(settings), sys.path, level], pacing)
        return link
    except BaseException:
        link.kill("was not needed")
        await link.bury()
        raise
