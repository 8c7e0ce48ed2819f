"""Lives of jobs in this process: each runs from a claim to the job's end, or until the job is given back or lost.

A job that is only to be ended, since nobody wants it any more or nobody can go on with it, is ended here too: what its
journal holds is paid for, and the best answer in it becomes the result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.answers import AnswerClasses
from orchestrator.asking import CheckedJob
from orchestrator.budget import NOTHING, Amount
from orchestrator.clock import Clock
from orchestrator.controller import JobRun, Recorder, RunContext
from orchestrator.controller.ending import end_now, final_of_cancelled
from orchestrator.controller.recorder import Create
from orchestrator.equipment import Equipment
from orchestrator.errors import LeaseLost, TtcError
from orchestrator.events import Event, IsWatched, Publish, careful
from orchestrator.fleet import Fleet
from orchestrator.job import JobSpec, Result
from orchestrator.journal import Recording
from orchestrator.ledger import Ledger
from orchestrator.offline import OfflineFleet
from orchestrator.store import JobState, JournalRow, Store
from orchestrator.tree import Node, Tree

_LOG = logging.getLogger(__name__)


class _Life(NamedTuple):
    run: JobRun
    is_over: asyncio.Event


class Lives:
    """The jobs that run in this process.

    Args:
        store: Gives the open store.
        fleet: Gives the open models.
        equipment: Readers, verifiers, processes.
        tools: Functions that policies may call, by name.
        ledger: A ledger above all jobs; None for no common cap.
        clock: Time.
    """

    def __init__(
        self,
        *,
        store: Callable[[], Store],
        fleet: Callable[[], Fleet],
        equipment: Equipment,
        tools: Mapping[str, Callable[..., Any]],  # Any: JSON values in and out
        ledger: Ledger | None,
        clock: Clock,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._equipment = equipment
        self._tools = tools
        self._ledger = ledger
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._are_over = asyncio.Event()
        self._known_above: dict[str, Amount] = {}  # unfinished jobs: what the ledger above has been charged for them

    # -- what runs ---------------------------------------------------------------------------------------------

    @property
    def running(self) -> Collection[str]:
        """Ids of the jobs."""
        return self._lives.keys()

    def cancel(self, job_id: str) -> bool:
        """Ends a job with its best answer so far; False if none of that id runs here."""
        life = self._lives.get(job_id)
        if life is not None:
            life.run.cancel()
        return life is not None

    def cancel_all(self) -> None:
        """Ends every job."""
        for life in tuple(self._lives.values()):
            life.run.cancel()

    def lose(self, job_id: str, error: LeaseLost) -> None:
        """Stops the work on a job that another controller has now; nothing more is written."""
        if (life := self._lives.get(job_id)) is not None:
            life.run.lose(error)

    async def wait_until_over(self, *, timeout_s: float) -> None:
        """Returns when nothing runs any more, at the latest after ``timeout_s``."""
        if not self._lives:
            return
        self._are_over.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._are_over.wait()
        except TimeoutError:
            _LOG.warning("jobs do not end", extra={"job_ids": list(self._lives)})

    # -- a life ------------------------------------------------------------------------------------------------

    async def run(
        self,
        job_id: str,
        asked: CheckedJob,
        *,
        epoch: int,
        rows: Sequence[JournalRow] = (),
        on_event: Publish | None = None,
        is_watched: IsWatched | None = None,
        due_at: float | None = None,
        create: Create | None = None,
    ) -> Result:
        """Carries a claimed job to its end; failures are in the result.

        Cancelling the task that awaits this stops all work at once and gives the job back to the queue; one that
        nobody else can resume is cancelled.

        Args:
            job_id: The job.
            asked: What it is.
            epoch: What the claim gave.
            rows: Its journal so far.
            on_event: Told every event.
            is_watched: Whether it is to be told what is not durable, too; by default it is.
            due_at: By when its answer is wanted, seconds since the epoch.
            create: Stores the job, which is not stored yet, with the first rows of its journal: soon after it has
                begun, at the latest with its end.
        """
        on_event = None if on_event is None else careful(on_event)
        context = self._context(job_id, asked.spec, epoch=epoch, rows=rows, on_event=on_event, create=create)
        context.due_at, context.is_watched = due_at, is_watched
        context.known_above = self._known_above.pop(job_id, NOTHING)
        life = _Life(self._job_run(context, asked), asyncio.Event())
        is_over = False
        try:
            await self._end_earlier(job_id)
            self._lives[job_id] = life
            _tell_start(context, asked)
            if create is not None:
                await context.recorder.flush()
            result = await life.run.run()
            is_over = result.state.is_terminal
            return result
        except asyncio.CancelledError:
            await _let_go(context)
            raise
        finally:
            if self._lives.get(job_id) is life:
                del self._lives[job_id]
            life.is_over.set()
            if not self._lives:
                self._are_over.set()
            if not is_over and self._ledger is not None:
                self._known_above[job_id] = context.ledger.spent

    async def _end_earlier(self, job_id: str) -> None:
        """A job that was claimed anew has lost the lease of its earlier life, which may not know that yet."""
        while (earlier := self._lives.get(job_id)) is not None:
            earlier.run.lose(LeaseLost(f"job {job_id!r} was claimed anew by this process", job_id=job_id))
            await earlier.is_over.wait()

    async def replay(
        self, job_id: str, asked: CheckedJob, *, epoch: int, rows: Sequence[JournalRow], on_event: Publish | None
    ) -> Result:
        """Runs a job again from its journal alone; buys nothing and writes nothing."""
        on_event = None if on_event is None else careful(on_event)
        fleet = OfflineFleet(asked.spec.models)
        context = self._context(job_id, asked.spec, epoch=epoch, rows=rows, on_event=on_event, fleet=fleet)
        _tell_start(context, asked)
        return await self._job_run(context, asked, is_offline=True).run()

    async def end(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        epoch: int,
        rows: Sequence[JournalRow],
        error: TtcError | None = None,
        on_event: Publish | None = None,
    ) -> Result:
        """Ends a claimed job without going on with it: as cancelled, or as failed if there is an ``error``.

        What its journal says was in flight is charged; the best answer in the journal is the job's.
        """
        on_event = None if on_event is None else careful(on_event)
        context = self._context(job_id, spec, epoch=epoch, rows=rows, on_event=on_event)
        context.known_above = self._known_above.pop(job_id, NOTHING)
        return await end_now(context, rows, error)

    def _context(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        epoch: int,
        rows: Sequence[JournalRow],
        on_event: Publish | None,
        fleet: OfflineFleet | None = None,
        create: Create | None = None,
    ) -> RunContext:
        recording = Recording(rows)
        reader = self._equipment.reader(spec.answer_kind)
        return RunContext(
            job_id=job_id,
            spec=spec,
            fleet=fleet or self._fleet(),
            ledger=Ledger(spec.budget, parent=None if fleet is not None else self._ledger),
            recorder=Recorder(
                self._store(),
                job_id=job_id,
                epoch=epoch,
                next_seq=recording.next_seq,
                publish=on_event,
                waits=not spec.is_bound,
                create=create,
            ),
            recording=recording,
            tree=Tree(Node(id="0", messages=spec.messages)),
            reader=reader,
            classes=AnswerClasses(reader),
            clock=self._clock,
            started_at=self._clock.monotonic() - recording.elapsed_s,
            publish=on_event,
            tools=self._tools,
        )

    def _job_run(self, context: RunContext, asked: CheckedJob, *, is_offline: bool = False) -> JobRun:
        return JobRun(
            context,
            asked.policy,
            asked.params,
            verifier=self._equipment.verifier,
            pool=self._equipment.pool,
            is_offline=is_offline,
        )


def _tell_start(context: RunContext, asked: CheckedJob) -> None:
    if context.publish is not None:
        told = {"job_id": context.job_id, "policy": asked.policy.name, "spec": context.spec.to_json()}
        context.publish(Event("started", told))


async def _let_go(context: RunContext) -> None:
    """A job whose task was cancelled can be resumed by anybody at once, or, if nobody can, has ended with that."""
    try:
        if context.spec.is_resumable:
            await context.recorder.let_go(JobState.QUEUED)
        else:
            await context.recorder.let_go(JobState.CANCELLED, final=final_of_cancelled(context))
    except TtcError as error:
        _LOG.warning("a cancelled job could not be given back", extra={"reason": str(error)})
