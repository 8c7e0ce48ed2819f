"""Follows a job of a cluster: takes its results and its other output as they come, and survives lost connections."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.api.terminal.batch import Json, Tally
from orchestrator.api.terminal.job_log import JobLogReader
from orchestrator.api.terminal.results import ResultSink
from orchestrator.errors import RunFailure, ServiceFailed, TtcError, from_fields
from orchestrator.workers.ray.jobs import JobState, RayJobs

PATIENCE_S = 60.0
"""A cluster may be unreachable for so long."""

_ASK_EVERY_S = 2.0
_PAUSE_S = 0.3
_SILENT_S = 5.0
"""The log of a job that is over has been sent when nothing has come for so long."""
_MAX_BROKEN = 3
_SHOWN_LINES = 8
_MAX_LINE = 400


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended.

    Attributes:
        state: As the cluster has it.
        is_complete: Whether the job itself said that it was done.
        error: What the job itself said it failed with.
        last_lines: Of its other output.
    """

    state: JobState
    is_complete: bool
    error: TtcError | None
    last_lines: tuple[str, ...]

    def failure(self, *, way_out: str) -> TtcError | None:
        """Why not all is done; None if the job did what it could.

        Args:
            way_out: What to do now, for errors that do not say it.
        """
        job, status = self.state.id, self.state.status
        if self.error is not None:
            message = f"job {job} failed: {self.error.message}"
            return from_fields({**self.error.fields(), "message": message})
        if status == "STOPPED":
            return RunFailure(f"job {job} was stopped; {way_out}", job_id=job, status=status)
        if self.is_complete and status == "SUCCEEDED":
            return None
        if status == "SUCCEEDED":
            reason = "it ended, but its log, which holds the results, could not be read to the end"
        elif self.state.exit_code == 127:
            reason = "the cluster's machines have no command ttc (setup_commands of ray_cluster.yaml install it)"
        else:
            reason = _reason(self.state, self.last_lines)
        return RunFailure(
            f"job {job} broke down: {reason}; {way_out}", job_id=job, status=status, exit_code=self.state.exit_code
        )


def _reason(state: JobState, last_lines: tuple[str, ...]) -> str:
    if state.exit_code is None:
        return " ".join(state.message.split())[:_MAX_LINE] or "nobody knows why"
    if state.exit_code < 0:
        what = f"its process was killed by signal {-state.exit_code}"
    else:
        what = f"its process ended with exit code {state.exit_code}"
    return f"{what}; it said last: {last_lines[-1][:_MAX_LINE]!r}" if last_lines else what


class Follower:
    """Follows one job.

    Args:
        jobs: The cluster's job server.
        job_id: The job.
        sink: Takes results, each once.
        tally: Counts them.
        known: Problems that have a row already, by id; grows.
        wanted: Problems whose results are taken, by id; None for all.
        is_counting: Whether it is the job that says how many problems there are.
        on_line: Is told each other line of the job's output.
        on_state: Is told how the job stands.
        patience_s: The cluster may be unreachable for so long.
    """

    def __init__(
        self,
        jobs: RayJobs,
        job_id: str,
        *,
        sink: ResultSink,
        tally: Tally,
        known: set[str],
        wanted: frozenset[str] | None = None,
        is_counting: bool = False,
        on_line: Callable[[str], None],
        on_state: Callable[[JobState], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._sink = sink
        self._tally = tally
        self._known = known
        self._wanted = wanted
        self._is_counting = is_counting
        self._on_line = on_line
        self._on_state = on_state
        self._patience_s = patience_s
        self._num_taken = 0
        self._heard_at = 0.0
        self._answered_at = time.monotonic()
        self._is_complete = False
        self._error: TtcError | None = None
        self._lines: deque[str] = deque(maxlen=_SHOWN_LINES)

    async def follow(self) -> Ending:
        """Until the job has ended and its log is read.

        Raises:
            StoreFailed: A result could not be written here.
            ServiceFailed: The cluster could not be reached for longer than the patience.
        """
        num_broken = 0
        while True:
            is_read = self._has_all or await self._try_to_read()
            state = await self._state()
            if state.is_over:
                num_broken += not is_read
                if self._has_all or is_read or num_broken >= _MAX_BROKEN:
                    return Ending(state, self._is_complete, self._error, tuple(self._lines))
            await asyncio.sleep(_PAUSE_S)

    @property
    def _has_all(self) -> bool:
        """Whether the job has said its last word."""
        return self._is_complete or self._error is not None

    async def _try_to_read(self) -> bool:
        """Reads the log; gives whether that went on to its end."""
        is_read = False
        try:
            await self._read()
            is_read = True
        except* ServiceFailed as lost:
            if any(not error.is_retryable for error in _leaves(lost)):
                raise
        return is_read

    async def _read(self) -> None:
        """Reads the log from its beginning, past what was taken before, for as long as it lasts."""
        self._heard_at = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._take_log())
            watching = tasks.create_task(self._watch(reading))
            await asyncio.wait((reading,))
            watching.cancel()

    async def _take_log(self) -> None:
        reader, number = JobLogReader(self._job_id), 0
        async for text in self._jobs.log(self._job_id):
            self._heard_at = time.monotonic()
            for item in reader.take(text):
                number += 1
                if number > self._num_taken:
                    self._take(item)
                    self._num_taken = number
            if self._has_all:  # the job server would wait for more
                return

    async def _watch(self, reading: asyncio.Task[None]) -> None:
        """Asks how the job stands while its log is read, which has no time limit of its own."""
        while True:
            await asyncio.sleep(_ASK_EVERY_S)
            state = await self._state()
            if state.is_over and time.monotonic() - self._heard_at > _SILENT_S:
                reading.cancel()
                return

    async def _state(self) -> JobState:
        """How the job stands; waits for a cluster that cannot be reached, as long as the patience."""
        while True:
            try:
                state = await self._jobs.state(self._job_id)
            except ServiceFailed as error:
                if not error.is_retryable or time.monotonic() > self._answered_at + self._patience_s:
                    raise
                await asyncio.sleep(_ASK_EVERY_S)
                continue
            self._answered_at = time.monotonic()
            self._on_state(state)
            return state

    def _take(self, item: Json | str) -> None:
        if isinstance(item, str):
            if item.strip():
                self._lines.append(item)
                self._on_line(item)
            return
        match item.get("kind"):
            case "row":
                self._take_row(item["row"])
            case "start" if self._is_counting:
                self._tally.num_problems = self._tally.num_done + item["num_problems"]
            case "error":
                self._error = from_fields(item["error"])
            case "end":
                self._is_complete = True

    def _take_row(self, row: Json) -> None:
        row_id = str(row["id"])
        if row_id in self._known or (self._wanted is not None and row_id not in self._wanted):
            return
        self._sink.write(row)
        self._known.add(row_id)
        self._tally.count(row)


def _leaves(group: BaseExceptionGroup[ServiceFailed]) -> list[ServiceFailed]:
    found: list[ServiceFailed] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
