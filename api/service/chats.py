"""Jobs that run at once in the process that took them: admission, the run, and its end when nobody listens any more.

The runs belong to this object and not to the requests that started them, so a caller who leaves ends a run at once and
its books are closed all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection

from orchestrator.asking import CheckedJob
from orchestrator.errors import LeaseLost, ServiceStopping, StoreFailed, TooManyRequests, TtcError
from orchestrator.events import NOT_DURABLE, Event
from orchestrator.in_process import Orchestrator
from orchestrator.runner import Runner
from orchestrator.store import JobRecord, Payment

_LOG = logging.getLogger(__name__)


class Chats:
    """Runs jobs while somebody listens.

    Args:
        orchestrator: Open.
        runner: Keeps the leases, and tells observers.
        concurrency: Most jobs at once.
        max_waiting: Most that wait for their turn.
    """

    def __init__(self, orchestrator: Orchestrator, runner: Runner, *, concurrency: int, max_waiting: int) -> None:
        self._orchestrator = orchestrator
        self._runner = runner
        self._concurrency = concurrency
        self._max_waiting = max_waiting
        self._turns = asyncio.Semaphore(concurrency)
        self._num_waiting = 0
        self._by_tenant: Counter[str] = Counter()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._left: set[str] = set()
        self._is_draining = False
        self._has_store_failed = False  # the last run; then the next one buys nothing before it is stored
        self._group: asyncio.TaskGroup | None = None

    @property
    def num_running(self) -> int:
        """Jobs that run now."""
        return len(self._tasks)

    @property
    def num_waiting(self) -> int:
        """Callers who wait for their turn."""
        return self._num_waiting

    def open(self, group: asyncio.TaskGroup) -> None:
        """Runs belong to ``group`` from now on."""
        self._group = group

    async def run(
        self,
        asked: CheckedJob,
        record: JobRecord,
        payment: Payment | None,
        *,
        most_of_tenant: int | None = None,
        kinds: Collection[str] | None = None,
    ) -> AsyncIterator[Event]:
        """Runs a job and yields its events, or those of some kinds and the last one; leaving the iteration ends it.

        Raises:
            TooManyRequests: Too many wait, or too many of the tenant run.
            ServiceStopping: It was waiting when `drain` began.
            JobConflict, BudgetExhausted, StoreFailed: It could not be stored.
        """
        self._admit(record.tenant, most_of_tenant)
        await self._take_turn(record.tenant)
        events: asyncio.Queue[Event | TtcError | None] = asyncio.Queue()
        assert self._group is not None, "chats are opened before they run"
        wanted = None if kinds is None else frozenset(kinds) | {"result"}

        def tell(event: Event | TtcError | None) -> None:
            if wanted is None or not isinstance(event, Event) or event.kind in wanted:
                events.put_nowait(event)

        wants_text = wanted is None or not wanted.isdisjoint(NOT_DURABLE)
        task = self._group.create_task(self._run(asked, record, payment, tell, wants_text=wants_text))
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._note_end(record))
        is_over = False
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, TtcError):
                    is_over = True
                    raise event
                is_over = event.kind == "result"
                yield event
            is_over = True
        finally:
            if not is_over:
                self._cancel(record.id)

    def cancel_all(self) -> None:
        """Ends all runs with their best answers so far."""
        for job_id in self._tasks:
            self._cancel(job_id)

    def _cancel(self, job_id: str) -> None:
        """Ends a run; one that is being stored, which is not undone half way, ends when it starts."""
        if not self._orchestrator.cancel(job_id) and job_id in self._tasks:
            self._left.add(job_id)

    async def drain(self, grace_s: float) -> None:
        """Gives runs ``grace_s`` seconds to end, and ends the rest with their best answers so far; none is begun."""
        self._is_draining = True
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_s)
        self.cancel_all()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_END_S)
        for task in tuple(self._tasks.values()):
            task.cancel()

    def _admit(self, tenant: str, most_of_tenant: int | None) -> None:
        if most_of_tenant is not None and self._by_tenant[tenant] >= most_of_tenant:
            raise TooManyRequests(
                f"{most_of_tenant} requests of yours run or wait already, which is the most; wait for one of them",
                retry_after_s=self._runner.mean_run_s,
            )
        if self._turns.locked() and self._num_waiting >= self._max_waiting:
            raise TooManyRequests(
                f"{self._num_waiting} requests wait already; try again later, or send it to /v1/jobs",
                retry_after_s=self._runner.mean_run_s * (1 + self._num_waiting / self._concurrency),
            )

    async def _take_turn(self, tenant: str) -> None:
        self._num_waiting += 1
        self._by_tenant[tenant] += 1
        try:
            await self._turns.acquire()
        except BaseException:
            self._forget(tenant)
            raise
        finally:
            self._num_waiting -= 1
        if self._is_draining:
            self._turns.release()
            self._forget(tenant)
            raise ServiceStopping("the service is being stopped; send the request again")

    def _note_end(self, record: JobRecord) -> None:
        del self._tasks[record.id]
        self._left.discard(record.id)
        self._turns.release()
        self._forget(record.tenant)

    def _forget(self, tenant: str) -> None:
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    async def _run(
        self,
        asked: CheckedJob,
        record: JobRecord,
        payment: Payment | None,
        tell: Callable[[Event | TtcError | None], None],
        *,
        wants_text: bool,
    ) -> None:
        watch = self._runner.watcher_of(record)

        def on_event(event: Event) -> None:
            if event.kind == "started" and record.id in self._left:
                self._orchestrator.cancel(record.id)
            watch(event)
            tell(event)

        try:
            with self._runner.holding(record.id, 1):
                result = await self._orchestrator.run_new(
                    asked,
                    record,
                    payment=payment,
                    on_event=on_event,
                    is_watched=lambda: wants_text or self._runner.is_followed(record.id),
                    lease_s=self._runner.lease_s,
                    is_stored_first=wants_text or self._has_store_failed,
                )
            self._has_store_failed = isinstance(result.error, StoreFailed)
            if isinstance(result.error, LeaseLost):  # of which no event tells
                tell(result.error)
        except TtcError as error:
            self._has_store_failed = isinstance(error, StoreFailed)
            tell(error)
        except Exception as error:  # noqa: BLE001  # one run must not end the others
            _LOG.exception("a chat could not be run", extra={"job_id": record.id})
            tell(TtcError(f"the request could not be carried out, which is a bug in ttc or in a plug-in: {error!r}"))
        finally:
            tell(None)


_END_S = 10.0
"""Jobs that were told to end have so long."""
