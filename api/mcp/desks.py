"""Where the tools' jobs go: an `Orchestrator` of this process, or a service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol

from orchestrator.api.mcp.outcomes import Outcome
from orchestrator.asking import CheckedJob
from orchestrator.client import AsyncClient
from orchestrator.errors import RunFailure, TtcError
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator
from orchestrator.store import JobRecord, JobState

_LOG = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON values


class Desk(Protocol):
    """Takes jobs. Options are those that `orchestrator.client.asking.JobOptions` and `Orchestrator.solve` share."""

    def stream(self, problem: str, options: Json) -> AsyncGenerator[Event]:
        """Runs a job and yields its events; the last is ``result``. Leaving the iteration cancels the job."""
        ...

    async def start(self, problem: str, options: Json) -> Outcome:
        """Hands in a job and returns as soon as it is stored."""
        ...

    async def look(self, job_id: str, *, wait_s: float) -> Outcome:
        """A job as it is when it has ended, at the latest after ``wait_s``."""
        ...

    async def cancel(self, job_id: str) -> Outcome:
        """Ends a job with its best answer so far."""
        ...


class RemoteDesk:
    """A service.

    Args:
        client: Open.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def stream(self, problem: str, options: Json) -> AsyncGenerator[Event]:
        """See `Desk`."""
        return self._client.stream(problem, **options)

    async def start(self, problem: str, options: Json) -> Outcome:
        """See `Desk`."""
        return Outcome.of_job(await self._client.submit(problem, **options))

    async def look(self, job_id: str, *, wait_s: float) -> Outcome:
        """See `Desk`."""
        return Outcome.of_job(await self._client.wait(job_id, timeout_s=wait_s))

    async def cancel(self, job_id: str) -> Outcome:
        """See `Desk`."""
        await self._client.cancel(job_id)
        return await self.look(job_id, wait_s=_END_S)


class LocalDesk:
    """An orchestrator of this process; `opened` makes one.

    Jobs are tasks of their own, so a request that is cancelled ends its job in an orderly way: with its best answer,
    and a state that says so.

    Args:
        orchestrator: Open.
        group: Runs the jobs.
    """

    def __init__(self, orchestrator: Orchestrator, group: asyncio.TaskGroup) -> None:
        self._orchestrator = orchestrator
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, orchestrator: Orchestrator) -> AsyncIterator[LocalDesk]:
        """A desk over an orchestrator that is opened here, and closed: what still runs is cancelled then."""
        async with orchestrator, asyncio.TaskGroup() as group:
            desk = cls(orchestrator, group)
            try:
                yield desk
            finally:
                await desk._end()

    async def _end(self) -> None:
        self._orchestrator.cancel_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_END_S)
        for task in self._tasks:
            task.cancel()

    async def stream(self, problem: str, options: Json) -> AsyncGenerator[Event]:
        """See `Desk`."""
        events: asyncio.Queue[Event | TtcError] = asyncio.Queue()
        job_id = self._begin(problem, options, events.put_nowait)
        is_over = False
        try:
            while not is_over:
                event = await events.get()
                if isinstance(event, TtcError):
                    is_over = True
                    raise event
                is_over = event.kind == "result"
                yield event
        finally:
            if not is_over:
                self._orchestrator.cancel(job_id)

    async def start(self, problem: str, options: Json) -> Outcome:
        """See `Desk`."""
        first: asyncio.Future[Event | TtcError] = asyncio.get_running_loop().create_future()

        def tell(event: Event | TtcError) -> None:
            if not first.done():
                first.set_result(event)

        job_id = self._begin(problem, options, tell)
        if isinstance(event := await first, TtcError):
            raise event
        return await self.look(job_id, wait_s=0.0)

    async def look(self, job_id: str, *, wait_s: float) -> Outcome:
        """See `Desk`."""
        store, loop = self._orchestrator.store, asyncio.get_running_loop()
        end, seen = loop.time() + wait_s, -1
        while True:
            record = await store.get(job_id)
            left_s = end - loop.time()
            if record.state.is_terminal or record.state is JobState.WAITING or left_s <= 0:
                return Outcome.of_job(record)
            rows = await store.read(job_id, after=seen)
            seen = rows[-1].seq if rows else seen
            await store.wait_for_news(job_id, after=seen, timeout_s=min(left_s, _POLL_S))

    async def cancel(self, job_id: str) -> Outcome:
        """See `Desk`."""
        if not self._orchestrator.cancel(job_id):
            await self._orchestrator.store.ask_to_cancel(job_id)
        return await self.look(job_id, wait_s=_END_S)

    def _begin(self, problem: str, options: Json, tell: Callable[[Event | TtcError], None]) -> str:
        """Gives a job its own task, and returns its id; events are told, and the error if it could not be stored.

        Raises:
            CallerError: There can be no such job.
        """
        asked = self._orchestrator.check(problem, **options)
        record = self._orchestrator.new_record(asked)
        task = self._group.create_task(self._run(asked, record, tell))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return record.id

    async def _run(self, asked: CheckedJob, record: JobRecord, tell: Callable[[Event | TtcError], None]) -> None:
        try:
            await self._orchestrator.run_new(asked, record, on_event=tell)
        except TtcError as error:
            tell(error)
        except Exception as error:  # noqa: BLE001  # one job's trouble must not end the others
            _LOG.exception("a job broke off", extra={"job_id": record.id})
            tell(RunFailure(f"the job broke off: {error!r}"))


_END_S = 5.0
"""A cancelled job has ended after so long, or is told to be on its way there."""
_POLL_S = 1.0
