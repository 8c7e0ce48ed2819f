"""Who is computed next: fair admission of waiting tasks, and how one batch is shared out. Pure decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orchestrator.workers.llama_cpp.pace import Pace
from orchestrator.workers.llama_cpp.work import Job, Reading, Task

_SHARED_TOKENS_WORTH_WAITING = 32
"""A prompt waits for another one that is being read if it can share at least this many tokens more (as SGLang does)."""


class FairQueue:
    """Jobs with waiting tasks, in the order in which they deserve the next place.

    By priority, then by how few places their tree holds, then by how long ago it was served, then by arrival. A tree
    does not begin another request while those it has begun can fill all places: siblings go together, and a prompt that
    was read does not have to stay in the cache for long before it is continued.

    Args:
        num_places: How many tasks may be live.
    """

    def __init__(self, num_places: int) -> None:
        self.jobs: dict[Job, None] = {}
        self._num_places = num_places
        self._served: dict[object, int] = {}
        self._turn = 0

    def add(self, job: Job) -> None:
        """A new job."""
        self._turn += 1
        job.arrival = self._turn
        self.jobs[job] = None

    def remove(self, job: Job) -> None:
        """A job that ended."""
        self.jobs.pop(job, None)
        if not any(other.fairness_key == job.fairness_key for other in self.jobs):
            self._served.pop(job.fairness_key, None)

    def served(self, job: Job) -> None:
        """One of its tasks got a place."""
        self._turn += 1
        self._served[job.fairness_key] = self._turn

    def overdue(self, now: float) -> list[Job]:
        """Jobs whose deadline has passed."""
        return [job for job in self.jobs if job.deadline is not None and job.deadline <= now]

    def seconds_to_deadline(self, now: float) -> float | None:
        """Until the first deadline; None where no job has one."""
        deadlines = [job.deadline for job in self.jobs if job.deadline is not None]
        return max(min(deadlines) - now, 0.0) if deadlines else None

    def ordered(self) -> list[Job]:
        """Jobs that have a task waiting which could run, the most deserving first."""
        ready = [job for job in self.jobs if job.waiting and not job.waiting[0].is_held]
        if len(ready) < 2:
            return ready
        places: Counter[object] = Counter()
        begun: Counter[object] = Counter()
        for job in self.jobs:
            places[job.fairness_key] += len(job.live)
            if job.is_begun:
                begun[job.fairness_key] += job.num_unfinished
        return sorted(
            (job for job in ready if job.is_begun or begun[job.fairness_key] < self._num_places),
            key=lambda job: (
                job.priority,
                places[job.fairness_key],
                self._served.get(job.fairness_key, 0),
                not job.is_begun,
                job.arrival,
            ),
        )


def should_wait_for(task: Task, live: Iterable[Task], num_cached: int) -> bool:
    """Whether a task had better wait until a prompt that is being read now can be shared."""
    if not isinstance(task, Reading) or len(task.tokens) < num_cached + _SHARED_TOKENS_WORTH_WAITING:
        return False
    return any(
        isinstance(other, Reading)
        and other.job.salt == task.job.salt
        and _common(task.tokens, other.tokens) >= num_cached + _SHARED_TOKENS_WORTH_WAITING
        for other in live
    )


class Slice(NamedTuple):
    """Tokens [start, start + num_tokens) of a task, to be computed in the next batch."""

    task: Task
    start: int
    num_tokens: int


def plan_batch(tasks: Sequence[Task], *, pace: Pace, max_outputs: int) -> list[Slice]:
    """One token for every task that is writing; what the pace leaves room for is shared evenly among those that read.

    Args:
        tasks: Live tasks with something to compute.
        pace: How many tokens a batch may have, and how many it may read.
        max_outputs: Most rows of logits.
    """
    slices: list[Slice] = []
    readers: list[tuple[Task, int]] = []
    for task in tasks:
        num_pending = task.num_pending
        if num_pending == 1:
            slices.append(Slice(task, len(task.tokens) - 1, 1))
        else:
            readers.append((task, num_pending))
    if not readers:
        return slices
    most = pace.prefill_tokens(sum(num_pending for _, num_pending in readers), is_writing=bool(slices))
    room = min(most, pace.batch_tokens - len(slices))
    outputs_left = max_outputs - len(slices)
    readers.sort(key=lambda reader: (reader[0].job.priority, reader[1]))
    for position, (task, num_pending) in enumerate(readers):
        start = len(task.tokens) - num_pending
        count = min(num_pending, max(room // (len(readers) - position), 1), room)
        quiet = max(task.first_output - start, 0)
        count = min(count, quiet + outputs_left)
        if count <= 0:
            continue
        room -= count
        outputs_left -= max(count - quiet, 0)
        slices.append(Slice(task, start, count))
    return slices


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
