"""Runs jobs of the queue: takes them, keeps their leases, ends those that are to be cancelled, lets go when told to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from orchestrator.controller.ending import end_unread
from orchestrator.errors import LeaseLost, RunFailure, StoreFailed, TtcError
from orchestrator.events import Event, Publish
from orchestrator.in_process import LEASE_S, Orchestrator
from orchestrator.job import Result
from orchestrator.store import Claimed, JobRecord, JobState

_LOG = logging.getLogger(__name__)

Observer = Callable[[JobRecord], Publish]
"""Called when a job starts to run in this process; what it returns is called with each of the job's events."""

_LOOK_S = 1.0
"""A lease that runs out wakes nobody, so the queue is looked at so often."""
_CANCEL_LOOK_S = 0.25
"""The store is asked at most so often which jobs are to be cancelled."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0
"""After a failure of the store, the next attempt is made so much later; twice as long after each further one."""
_SMOOTHING = 0.1


class Runner:
    """Takes jobs from the store of an orchestrator and runs them, so many at once.

    Args:
        orchestrator: Open.
        concurrency: Most jobs at once; 0 takes none, and keeps only the leases of jobs that run here otherwise.
        most_per_tenant: Most jobs of one tenant at once, over all processes; None for no limit.
        observers: Who is told what jobs do.
        is_followed: Whether somebody follows the job of that id, and is to be told what is not durable, too; by default
            all of it is told.
        lease_s: A job is lost to others when its lease was not renewed for so long.

    Attributes:
        observers: As given; more may be added.
        mean_run_s: How long jobs took lately.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        concurrency: int,
        most_per_tenant: int | None = None,
        observers: Sequence[Observer] = (),
        is_followed: Callable[[str], bool] | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self.observers = list(observers)
        self.mean_run_s = 1.0
        self._orchestrator = orchestrator
        self._concurrency = concurrency
        self._most_per_tenant = most_per_tenant
        self._lease_s = lease_s
        self._is_followed = is_followed
        self._held: dict[tuple[str, int], float] = {}  # jobs and epochs: when their leases were renewed
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._is_draining = False
        self._has_ended = asyncio.Event()
        self._is_drained = asyncio.Event()
        self._pause_s = 0.0
        self._looked_for_cancels_at = 0.0

    @property
    def lease_s(self) -> float:
        """A job is lost to others when its lease was not renewed for so long."""
        return self._lease_s

    @property
    def num_running(self) -> int:
        """Jobs of the queue that run here now."""
        return len(self._tasks)

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._is_draining

    @property
    def is_store_failing(self) -> bool:
        """Whether the store failed when it was last used."""
        return self._pause_s > 0

    def watcher_of(self, record: JobRecord) -> Publish:
        """Tells all observers what a job does; their mistakes are not the job's."""
        watchers: list[Publish] = []
        for observer in self.observers:
            try:
                watchers.append(observer(record))
            except Exception:  # noqa: BLE001  # the observer's mistake
                _LOG.exception("a job cannot be observed", extra={"job_id": record.id})

        def publish(event: Event) -> None:
            for watcher in watchers:
                try:
                    watcher(event)
                except Exception:  # noqa: BLE001  # as it is not part of the job
                    _LOG.exception("an observer raised", extra={"kind": event.kind})

        return publish

    def is_followed(self, job_id: str) -> bool:
        """Whether somebody wants to be told all that the job does."""
        return self._is_followed is None or self._is_followed(job_id)

    @contextmanager
    def holding(self, job_id: str, epoch: int) -> Iterator[None]:
        """Keeps the lease of a job, and hears of its cancellation, as long as the context is open."""
        self._held[job_id, epoch] = time.monotonic()
        try:
            yield
        finally:
            del self._held[job_id, epoch]
            self._has_ended.set()

    # -- life --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Takes and runs jobs until `drain`; a store that fails is asked again after a while.

        Cancelling the task that awaits this lets all jobs go back to the queue at once.
        """
        async with asyncio.TaskGroup() as tasks:
            self._group = tasks
            minding = tasks.create_task(self._mind())
            try:
                await self._is_drained.wait()
            finally:
                minding.cancel()

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new, gives what runs ``grace_s`` seconds to end, and lets the rest go back to the queue.

        Leases of what runs here otherwise (see `holding`) are kept until that has ended, too.
        """
        self._is_draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._until_idle()
        except TimeoutError:
            _LOG.info("jobs are given back", extra={"num_jobs": len(self._tasks)})
        for task in tuple(self._tasks):
            task.cancel()
        await self._until_idle()
        while self._held:
            await self._next_end()
        self._is_drained.set()

    async def _until_idle(self) -> None:
        while self._tasks:
            await self._next_end()

    async def _next_end(self) -> None:
        self._has_ended.clear()
        await self._has_ended.wait()

    async def _mind(self) -> None:
        while True:
            timeout_s = min(_LOOK_S, self._lease_s / 6)
            try:
                await self._renew()
                if not await self._end_cancelled():
                    timeout_s = min(timeout_s, _CANCEL_LOOK_S)
                while len(self._tasks) < self._concurrency and (claimed := await self._taken()) is not None:
                    self._start(claimed)
                self._pause_s = 0.0
                await self._orchestrator.store.wait_for_work(timeout_s=timeout_s)
            except Exception as error:  # noqa: BLE001  # a store of somebody else's; nobody else would go on minding
                await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        _log("the store cannot be used", error)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        await asyncio.sleep(self._pause_s)

    async def _taken(self) -> Claimed | None:
        """The next job; one that comes when none is wanted any more goes back to the queue."""
        if self._is_draining:
            return None
        store = self._orchestrator.store
        taking = asyncio.ensure_future(
            store.take(self._orchestrator.owner, lease_s=self._lease_s, most_per_tenant=self._most_per_tenant)
        )
        try:
            claimed = await asyncio.shield(taking)
        except asyncio.CancelledError:
            try:
                await self._give_back(await taking)
            except Exception as error:  # noqa: BLE001  # its lease runs out
                _log("a job that was just taken could not be given back", error)
            raise
        if self.is_draining:
            await self._give_back(claimed)
            return None
        return claimed

    async def _give_back(self, claimed: Claimed | None) -> None:
        if claimed is not None:
            await self._orchestrator.store.append(claimed.record.id, claimed.epoch, [], state=JobState.QUEUED)

    # -- leases and cancellations ------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Renews leases that are a third over; a job whose lease is lost stops at once."""
        now = time.monotonic()
        for (job_id, epoch), renewed_at in tuple(self._held.items()):
            if now - renewed_at < self._lease_s / 3 or (job_id, epoch) not in self._held:
                continue
            try:
                await self._orchestrator.store.append(job_id, epoch, [])
                if (job_id, epoch) in self._held:
                    self._held[job_id, epoch] = time.monotonic()
            except LeaseLost as error:
                if (job_id, epoch) not in self._held:
                    continue
                _LOG.warning("a lease is lost", extra={"job_id": job_id})
                self._orchestrator.lose(job_id, error)

    async def _end_cancelled(self) -> bool:
        """Ends jobs that somebody wants ended; False if it is too early to look again."""
        if not self._held:
            return True
        now = time.monotonic()
        if now - self._looked_for_cancels_at < _CANCEL_LOOK_S:
            return False
        self._looked_for_cancels_at = now
        for job_id in await self._orchestrator.store.wanted_cancelled(self._orchestrator.owner):
            self._orchestrator.cancel(job_id)
        return True

    # -- jobs --------------------------------------------------------------------------------------------------

    def _start(self, claimed: Claimed) -> None:
        assert self._group is not None, "jobs are taken while it runs"
        task = self._group.create_task(self._work(claimed))
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._has_ended.set()

    async def _work(self, claimed: Claimed) -> None:
        """Runs a job, and then whatever is next, until there is nothing."""
        following: Claimed | None = claimed
        while following is not None:
            try:
                await self._run_one(following)
            except Exception as error:  # noqa: BLE001  # the job goes on when its lease is over, here or elsewhere
                _log("a job was interrupted", error, job_id=following.record.id)
                return
            try:
                following = await self._taken() if len(self._tasks) <= self._concurrency else None
            except Exception as error:  # noqa: BLE001  # a store of somebody else's; the loop that minds goes on
                _log("no further job can be taken", error)
                return

    async def _run_one(self, claimed: Claimed) -> None:
        """Carries a job to its end.

        Raises:
            StoreFailed, LeaseLost: It is unfinished.
        """
        record, epoch = claimed
        started_at = time.monotonic()
        with self.holding(record.id, epoch):
            publish = self.watcher_of(record)
            try:
                result = await self._orchestrator.run_claimed(
                    claimed, on_event=publish, is_watched=partial(self.is_followed, record.id)
                )
            except TtcError:
                raise
            except Exception as error:  # noqa: BLE001  # one job must not end the others
                _LOG.exception("a job could not be run", extra={"job_id": record.id})
                failure = RunFailure(f"the job could not be run, which is a bug in ttc or in a plug-in: {error!r}")
                result = await self._failed(claimed, failure, publish)
        if isinstance(result.error, LeaseLost | StoreFailed):
            raise result.error
        self.mean_run_s += _SMOOTHING * (time.monotonic() - started_at - self.mean_run_s)

    async def _failed(self, claimed: Claimed, failure: RunFailure, publish: Publish) -> Result:
        try:
            return await self._orchestrator.run_claimed(claimed, on_event=publish, error=failure)
        except TtcError:
            raise
        except Exception:  # noqa: BLE001  # what the store has of it cannot be read: of a later version, or damaged
            _LOG.exception("a job could not be read", extra={"job_id": claimed.record.id})
            return await end_unread(self._orchestrator.store, claimed, failure)


def _log(message: str, error: Exception, **fields: str) -> None:
    _LOG.error(message, exc_info=not isinstance(error, TtcError), extra={**fields, "reason": str(error)})
