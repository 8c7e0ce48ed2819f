"""Events of one request on their way to its reader: many writers, one reader, and a limit on what lies unread."""

from __future__ import annotations

import asyncio
from collections import deque

from orchestrator.engine import MAX_UNREAD_TOKENS, Delta, GenerationEvent, Prefilled


class Outbox:
    """Holds events until they are read; a writer whose sample has too many unread tokens waits, and reads no more.

    The first event is always a `Prefilled`: the estimate, if the server has not counted yet.

    Args:
        num_samples: Samples of the request.
        estimate: What is sent first if nothing better is known.
        max_unread_tokens: At which number of unread tokens the writers of a sample wait.

    Attributes:
        is_closed: Whether no more events will be added.
    """

    def __init__(self, num_samples: int, estimate: Prefilled, *, max_unread_tokens: int = MAX_UNREAD_TOKENS) -> None:
        self._max_unread_tokens = max_unread_tokens
        self._events: deque[GenerationEvent] = deque()
        self._unread_tokens = [0] * num_samples
        self._readable = asyncio.Event()
        self._taken = asyncio.Event()
        self._prefilled = estimate
        self._has_begun = False
        self.is_closed = False
        self._error: BaseException | None = None

    def prefilled(self, prefilled: Prefilled) -> None:
        """Corrects the prompt's length; sent at once if it differs from what was sent before."""
        if not self._has_begun or prefilled != self._prefilled:
            self._prefilled = prefilled
            self._append(prefilled)

    async def put(self, event: GenerationEvent) -> None:
        """Adds an event, then waits until its sample has few unread tokens."""
        self.put_now(event)
        if isinstance(event, Delta):
            while self._unread_tokens[event.index] >= self._max_unread_tokens:
                self._taken.clear()
                await self._taken.wait()

    def put_now(self, event: GenerationEvent) -> None:
        """Adds an event."""
        if not self._has_begun:
            self._append(self._prefilled)
        if isinstance(event, Delta):
            self._unread_tokens[event.index] += event.num_tokens
        self._append(event)

    def close(self, error: BaseException | None = None) -> None:
        """No more events; the reader meets ``error`` after those there are."""
        self.is_closed, self._error = True, error
        self._readable.set()

    async def get(self) -> GenerationEvent | None:
        """The next event; None at the end.

        Raises:
            TtcError: What the outbox was closed with.
        """
        while not self._events:
            if self.is_closed:
                if self._error is not None:
                    raise self._error
                return None
            self._readable.clear()
            await self._readable.wait()
        event = self._events.popleft()
        if isinstance(event, Delta):
            self._unread_tokens[event.index] -= event.num_tokens
            self._taken.set()
        return event

    def _append(self, event: GenerationEvent) -> None:
        self._has_begun = True
        self._events.append(event)
        self._readable.set()
