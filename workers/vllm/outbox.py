"""Events of one request on their way to its reader: what lies unread is counted, short deltas become longer ones."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from orchestrator.engine import Delta, GenerationEvent, Prefilled, TokenAlternatives

_MOST_PER_DELTA = 16


@dataclass(slots=True)
class Tokens:
    """Tokens of one sample that go into one delta; the lists are in step, but for an end-of-turn token's id.

    Attributes:
        index: The sample.
        text: What they add to its text.
        num_tokens: How many.
        ids: Their ids.
        logprobs, alternatives: None unless they were asked for.
    """

    index: int
    text: str = ""
    num_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    alternatives: list[TokenAlternatives] | None = None

    def add(self, other: Tokens) -> None:
        """Appends tokens that follow."""
        self.text += other.text
        self.num_tokens += other.num_tokens
        self.ids += other.ids
        if self.logprobs is not None and other.logprobs is not None:
            self.logprobs += other.logprobs
        if self.alternatives is not None and other.alternatives is not None:
            self.alternatives += other.alternatives

    def delta(self) -> Delta:
        """As an event."""
        return Delta(
            self.index,
            self.text,
            self.num_tokens,
            tuple(self.ids),
            None if self.logprobs is None else tuple(self.logprobs),
            None if self.alternatives is None else tuple(self.alternatives),
        )


class Outbox:
    """Holds events until they are read; the first one is always the `Prefilled`.

    Args:
        num_samples: Samples of the request.
        max_unread_tokens: So many of a sample may lie unread.

    Attributes:
        is_closed: Whether no more events will be added.
        most_per_delta: Tokens in one delta.
    """

    def __init__(self, num_samples: int, *, max_unread_tokens: int) -> None:
        self.is_closed = False
        self._events: deque[GenerationEvent | Tokens] = deque()
        self._open: dict[int, Tokens] = {}  # what more tokens of a sample may still be added to
        self._unread = [0] * num_samples
        self._max_unread = max_unread_tokens
        self.most_per_delta = max(1, min(_MOST_PER_DELTA, max_unread_tokens // 2))
        self._has_begun = False
        self._readable = asyncio.Event()
        self._taken = asyncio.Event()
        self._error: Exception | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there was a `Prefilled`."""
        return self._has_begun

    def begin(self, prefilled: Prefilled) -> None:
        """The first event; what was put before goes after it."""
        assert not self._has_begun, "Prefilled comes once"
        self._has_begun = True
        self._events.appendleft(prefilled)
        self._readable.set()

    def put_tokens(self, tokens: Tokens) -> None:
        """More of a sample."""
        self._unread[tokens.index] += tokens.num_tokens
        last = self._open.get(tokens.index)
        if last is not None and last.num_tokens + tokens.num_tokens <= self.most_per_delta:
            last.add(tokens)
        else:
            self._open[tokens.index] = tokens
            self._append(tokens)

    def put(self, event: GenerationEvent) -> None:
        """Adds an event."""
        self._append(event)

    def close(self, error: Exception | None = None) -> None:
        """No more events; the reader meets ``error`` after those there are."""
        if not self.is_closed:
            self.is_closed, self._error = True, error
            self._has_begun = True
            self._readable.set()

    def room(self, index: int) -> int:
        """Tokens that may still be put for a sample."""
        return self._max_unread - self._unread[index]

    async def until_half_read(self, index: int) -> None:
        """Returns when at most half of what may lie unread of a sample does."""
        while self._unread[index] > self._max_unread // 2:
            self._taken.clear()
            await self._taken.wait()

    async def get(self) -> GenerationEvent | None:
        """The next event; None at the end.

        Raises:
            TtcError: What the outbox was closed with.
        """
        while not self._events or not self._has_begun:
            if self.is_closed:
                if self._error is not None:
                    raise self._error
                return None
            self._readable.clear()
            await self._readable.wait()
        event = self._events.popleft()
        if not isinstance(event, Tokens):
            return event
        if self._open.get(event.index) is event:
            del self._open[event.index]
        self._unread[event.index] -= event.num_tokens
        self._taken.set()
        return event.delta()

    def _append(self, event: GenerationEvent | Tokens) -> None:
        self._events.append(event)
        if self._has_begun:
            self._readable.set()
