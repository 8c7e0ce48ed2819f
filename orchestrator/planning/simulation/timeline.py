"""Simulated time: a heap of events of our own, or a running event loop whose clock jumps.

The model of the fleet knows only `Timeline`, so recorded shapes of jobs and the real controller can both drive it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Protocol

Action = Callable[[], None]


class Timeline(Protocol):
    """Tells the time and calls back."""

    def now(self) -> float:
        """Seconds since the start."""
        ...

    def at(self, time_s: float, action: Action) -> None:
        """Calls ``action`` at ``time_s``, which is not in the past; nothing can be taken back."""
        ...


class EventHeap:
    """A timeline of its own: runs events in order of time, those of one time in the order in which they were asked for.

    Attributes:
        num_events: How many have been run.
    """

    def __init__(self) -> None:
        self.num_events = 0
        self._now = 0.0
        self._heap: list[tuple[float, int, Action]] = []
        self._turn = 0

    def now(self) -> float:
        """Seconds since the start."""
        return self._now

    def at(self, time_s: float, action: Action) -> None:
        """Calls ``action`` at ``time_s``."""
        self._turn += 1
        heapq.heappush(self._heap, (time_s, self._turn, action))

    def run(self, until_s: float = float("inf"), *, most_events: int | None = None) -> bool:
        """Runs what is due until ``until_s`` or until nothing is left.

        Args:
            until_s: Events after this stay.
            most_events: Stop after so many, for callers that want to look around; None for no limit.

        Returns:
            Whether there may be more to run before ``until_s``.
        """
        heap, pop = self._heap, heapq.heappop
        left = -1 if most_events is None else most_events
        while heap and heap[0][0] <= until_s and left != 0:
            self._now, _, action = pop(heap)
            action()
            self.num_events += 1
            left -= 1
        if heap and heap[0][0] <= until_s:
            return True
        if until_s != float("inf"):
            self._now = max(self._now, until_s)
        return False


class LoopTimeline:
    """The running event loop's time; on `orchestrator.testing.virtual_time` the loop's timers are the event heap."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """The loop's seconds."""
        return self._loop.time()

    def at(self, time_s: float, action: Action) -> None:
        """Calls ``action`` from the loop."""
        self._loop.call_at(time_s, action)
