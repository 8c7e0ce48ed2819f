"""Controllers: each does one thing at a time, and runs so many jobs; jobs beyond that wait in the store's queue."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.planning.simulation.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSpec:
    """What controllers cost and hold.

    Attributes:
        num_controllers: How many there are.
        max_jobs: Most jobs that one runs at a time.
        max_queued: Most jobs that wait; further ones are refused.
        job_s: CPU seconds to begin and end a job.
        call_s: CPU seconds to send a call.
        sequence_s: CPU seconds to take in a sequence: its deltas, its answer, its journal row.
    """

    num_controllers: int = 1
    max_jobs: int = 1 << 30
    max_queued: int = 1 << 30
    job_s: float = 0.0
    call_s: float = 0.0
    sequence_s: float = 0.0

    @property
    def is_free(self) -> bool:
        """Whether they neither cost anything nor turn anything away."""
        return not (self.job_s or self.call_s or self.sequence_s) and self.max_jobs == 1 << 30


class Controllers:
    """See the module; a job goes to the controller that has the fewest.

    Attributes:
        busy_s: CPU seconds of all controllers so far.
    """

    def __init__(self, spec: ControllerSpec, timeline: Timeline) -> None:
        self.spec = spec
        self.busy_s = 0.0
        self._timeline = timeline
        self._free_at = [0.0] * spec.num_controllers
        self._num_jobs = [0] * spec.num_controllers
        self._by_jobs = [(0, index) for index in range(spec.num_controllers)]  # heap; stale entries are passed over
        self._queue: deque[Callable[[int], None]] = deque()

    @property
    def num_queued(self) -> int:
        """Jobs that wait for a controller."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Jobs that controllers have."""
        return sum(self._num_jobs)

    def take(self, begin: Callable[[int], None]) -> bool:
        """Calls ``begin`` with a controller, now or when one has room; False if too many wait already."""
        index = self._least()
        if self._queue or self._num_jobs[index] >= self.spec.max_jobs:
            if len(self._queue) >= self.spec.max_queued:
                return False
            self._queue.append(begin)
        else:
            self._begin(index, begin)
        return True

    def leave(self, controller: int) -> None:
        """A job of this controller has ended."""
        self._change(controller, -1)
        if self._queue:
            self._begin(controller, self._queue.popleft())

    def work(self, controller: int, seconds: float, then: Callable[[], None]) -> None:
        """Has a controller compute for so long when it gets to it, and goes on after that."""
        now = self._timeline.now()
        if seconds <= 0 and self._free_at[controller] <= now:
            then()
            return
        self.busy_s += seconds
        end = self._free_at[controller] = max(now, self._free_at[controller]) + seconds
        self._timeline.at(end, then)

    def _begin(self, index: int, begin: Callable[[int], None]) -> None:
        self._change(index, 1)
        begin(index)

    def _change(self, index: int, by: int) -> None:
        self._num_jobs[index] += by
        heapq.heappush(self._by_jobs, (self._num_jobs[index], index))

    def _least(self) -> int:
        heap = self._by_jobs
        while heap[0][0] != self._num_jobs[heap[0][1]]:
            heapq.heappop(heap)
        return heap[0][1]
