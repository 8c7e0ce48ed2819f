"""Carries events from the decode thread to the readers on the event loop, a step's worth at a time.

The thread is the only writer of `produced`, the loop the only writer of `taken`; both only grow, so their difference
needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.engine import MAX_UNREAD_TOKENS, Delta, GenerationEvent

_logger = logging.getLogger(__name__)


class EventStream:
    """Events of one request, from the thread to one reader.

    Args:
        num_samples: Samples of the request.
        max_unread_tokens: How far each of them may run ahead of the reader.
        on_room: Called on the loop when a sample that was held may go on.
    """

    def __init__(
        self, num_samples: int, *, max_unread_tokens: int = MAX_UNREAD_TOKENS, on_room: Callable[[], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.produced = [0] * num_samples  # tokens sampled; written by the thread
        self._taken = [0] * num_samples  # tokens read; written by the loop
        self._events: deque[GenerationEvent] = deque()
        self._arrived = asyncio.Event()
        self._error: Exception | None = None
        self._is_closed = False
        self._max_unread_tokens = max_unread_tokens
        self._on_room = on_room

    def is_full(self, index: int) -> bool:
        """Whether the reader is so far behind that the sample must wait."""
        return self.produced[index] - self._taken[index] >= self._max_unread_tokens

    def deliver(self, events: Sequence[GenerationEvent], *, is_last: bool, error: Exception | None) -> None:
        """On the loop: more events; ``is_last`` closes the stream, with ``error`` if there is one."""
        self._events.extend(events)
        if is_last:
            self._is_closed, self._error = True, error
        self._arrived.set()

    @property
    def is_closed(self) -> bool:
        """Whether the thread has sent its last event."""
        return self._is_closed

    async def next(self) -> GenerationEvent | None:
        """The next event; None at the end.

        Raises:
            Exception: What the stream was closed with.
        """
        while not self._events:
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                return None
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        if isinstance(event, Delta):
            was_full = self.is_full(event.index)
            self._taken[event.index] += event.num_tokens
            if was_full and not self.is_full(event.index):
                self._on_room()
        return event


@dataclass(slots=True)
class Parcel:
    """What one step brought for one stream."""

    stream: EventStream
    events: list[GenerationEvent]
    is_last: bool
    error: Exception | None


def dispatch(parcels: Iterable[Parcel]) -> None:
    """Hands parcels to the event loops of their readers: one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Parcel]] = {}
    for parcel in parcels:
        by_loop.setdefault(parcel.stream.loop, []).append(parcel)
    for loop, batch in by_loop.items():
        post(loop, partial(_hand_over, batch))


def post(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Runs ``act`` on an event loop; drops it if the loop is closed."""
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        _logger.debug("a reader's event loop is closed")


def _hand_over(parcels: Sequence[Parcel]) -> None:
    for parcel in parcels:
        parcel.stream.deliver(parcel.events, is_last=parcel.is_last, error=parcel.error)
