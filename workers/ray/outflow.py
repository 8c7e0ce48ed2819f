"""How the events of one stream leave a replica: in chunks, and never further ahead of the reader than is allowed.

A message costs both sides most of a millisecond, however much is in it. So events are collected for a moment; but the
first tokens wait for nothing, nor does what ends a sample, nor what the engine would have to wait for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from orchestrator.engine import Delta, Finished, GenerationEvent


class Window(NamedTuple):
    """How the tokens that may be unread are shared out, per sample.

    Attributes:
        ahead: So many the engine may be ahead of the replica.
        flowing: So many may be on their way, or waiting to be. Beside both there is one delta, half as many as
            `ahead`, that has been taken from the engine and does not fit.
        ack: The reader says what it has taken once it has taken so many.
    """

    ahead: int
    flowing: int
    ack: int

    @classmethod
    def of(cls, allowed: int) -> Window:
        """For a request that allows so many tokens to be unread."""
        ahead = max(2, allowed * 3 // 8)
        flowing = max(1, allowed - ahead - ahead // 2)
        return cls(ahead, flowing, max(1, flowing // 2))


class Reading:
    """The reader's side of the window: when to say how much was taken.

    Args:
        allowed_tokens: The request's `max_unread_tokens`.
    """

    def __init__(self, *, allowed_tokens: int) -> None:
        self._window = Window.of(allowed_tokens)
        self._num_taken = 0
        self._tokens: Counter[int] = Counter()

    def take(self, event: GenerationEvent) -> int | None:
        """An event was taken; returns the number of events taken in all, if the replica is to be told."""
        self._num_taken += 1
        if not isinstance(event, Delta):
            return None
        self._tokens[event.index] += event.num_tokens
        if self._tokens[event.index] < self._window.ack:
            return None
        self._tokens.clear()
        return self._num_taken


class Outflow:
    """The replica's side of one stream.

    Args:
        events: The engine's stream.
        allowed_tokens: The request's `max_unread_tokens`.
        interval_s: Chunks that can wait follow each other no faster.

    Attributes:
        ahead_tokens: How far the engine may run ahead of what is taken from it here.
    """

    def __init__(self, events: AsyncIterator[GenerationEvent], *, allowed_tokens: int, interval_s: float) -> None:
        self._events = events
        self._window = Window.of(allowed_tokens)
        self.ahead_tokens = self._window.ahead
        self._interval_s = interval_s
        self._pending: list[GenerationEvent] = []
        self._unread: deque[GenerationEvent] = deque()
        self._unread_tokens: Counter[int] = Counter()
        self._num_taken = 0
        self._has_begun = False  # tokens have been sent
        self._is_pressing = True
        self._is_over = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_waiting_for_reader(self) -> bool:
        """Whether the engine is held up because nobody takes what there is."""
        return not self._room.is_set()

    def taken(self, num_events: int) -> None:
        """The reader has taken so many events in all; what it said before may come later."""
        while self._num_taken < num_events and self._unread:
            self._num_taken += 1
            event = self._unread.popleft()
            if isinstance(event, Delta):
                self._unread_tokens[event.index] -= event.num_tokens
        self._room.set()

    def abandon(self, error: Exception) -> None:
        """Ends the stream; what has not been sent is dropped."""
        self._pending.clear()
        self._error = error
        self._is_over = True
        self._news.set()

    async def chunks(self) -> AsyncGenerator[list[GenerationEvent], None]:
        """The events, in chunks; closing it closes the engine's stream.

        Raises:
            Exception: What the engine's stream ended with.
        """
        # It runs while this generator does, which awaits its end; a task group may not span a yield.
        reader = asyncio.create_task(self._read())
        try:
            sent_at = -self._interval_s
            while await self._has_more():
                await self._collect(sent_at + self._interval_s)
                chunk, self._pending = self._pending, []
                self._has_begun = self._has_begun or any(isinstance(event, Delta) for event in chunk)
                self._is_pressing = not self._has_begun
                sent_at = asyncio.get_running_loop().time()
                yield chunk
        finally:
            reader.cancel()
            await asyncio.wait({reader})
        if self._error is not None:
            raise self._error

    async def _has_more(self) -> bool:
        while not self._pending and not self._is_over:
            self._news.clear()
            await self._news.wait()
        return bool(self._pending)

    async def _collect(self, until: float) -> None:
        """Waits until then for more, unless something in hand cannot wait."""
        if not self._is_pressing:
            await asyncio.sleep(0)  # samples of one request get their tokens in the same step
        while not self._is_pressing and not self._is_over:
            self._news.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._news.wait()
            except TimeoutError:
                return

    async def _read(self) -> None:
        try:
            async for event in self._events:
                while not self._has_room(event):
                    self._room.clear()
                    await self._room.wait()
                self._take(event)
        except Exception as error:  # noqa: BLE001  # whoever takes the chunks meets it
            self._error = self._error or error
        finally:
            self._is_over = True
            self._news.set()
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()

    def _has_room(self, event: GenerationEvent) -> bool:
        """A sample of which less than the reader would report is unread gets on, or it would never be reported."""
        if not isinstance(event, Delta):
            return True
        unread = self._unread_tokens[event.index]
        return unread < self._window.ack or unread + event.num_tokens <= self._window.flowing

    def _take(self, event: GenerationEvent) -> None:
        self._pending.append(event)
        self._unread.append(event)
        if isinstance(event, Delta):
            self._unread_tokens[event.index] += event.num_tokens
            self._is_pressing = self._is_pressing or self._unread_tokens[event.index] >= self._window.ack
        elif isinstance(event, Finished):
            self._is_pressing = True
        self._news.set()
