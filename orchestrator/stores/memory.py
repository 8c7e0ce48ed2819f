"""Jobs in memory: as fast as it gets, gone with the process. For tests, one-off runs and simulation."""

from __future__ import annotations

import bisect
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.budget import NOTHING
from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import StoreFailed
from orchestrator.store import Change, Claimed, JobRecord, JobState, JournalRow, Payment
from orchestrator.stores import books
from orchestrator.stores.leases import Holders, check_claim, lease_end
from orchestrator.stores.memory_books import MemoryAccounts, MemoryDocuments, MemoryShelf
from orchestrator.stores.rows import (
    decoded_row,
    encoded,
    encoded_rows,
    job_exists,
    key_exists,
    lease_lost,
    place_in_queue,
    started,
    unknown_job,
)
from orchestrator.stores.waiting import Waiters

_LATEST_SHOWN = 5


@dataclass(slots=True)
class _Job:
    record: JobRecord  # without its spec and result
    spec: str
    result: str | None = None
    lease_s: float = 0.0
    lease_until: float = 0.0
    rows: list[tuple[int, str, str]] = field(default_factory=list)


class MemoryStore(MemoryAccounts, MemoryDocuments):
    """Implements `Store` within one process; suspends only to wait for news or work.

    Values are kept as JSON text, so what cannot be journaled fails here as it would in a database, and changing a
    dictionary later changes nothing.

    Args:
        clock: For leases and rates.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._shelf = MemoryShelf()
        self._buckets = {}
        self._documents = {}
        self._jobs: dict[str, _Job] = {}
        self._ids: list[str] = []  # sorted
        self._queued: dict[str, list[tuple[tuple[float, ...], str]]] = {}  # by tenant; sorted, none is empty
        self._running: set[str] = set()
        self._counts: Counter[tuple[str, JobState]] = Counter()
        self._by_key: dict[tuple[str, str], str] = {}
        self._waiters = Waiters()
        self._is_closed = False

    # Jobs

    async def create(
        self,
        record: JobRecord,
        *,
        lease_s: float | None = None,
        payment: Payment | None = None,
        first: Change | None = None,
    ) -> None:
        """Adds a job and sets aside what it may cost."""
        self._check_open()
        if record.id in self._jobs:
            raise job_exists(record.id)
        key = None if record.idempotency_key is None else (record.tenant, record.idempotency_key)
        if key is not None and key in self._by_key:
            raise key_exists(self._by_key[key], record)
        record = record if lease_s is None else started(record)
        result = None if record.result is None else encoded(record.result)
        job = _Job(replace(record, spec={}, result=None), encoded(record.spec), result)
        if payment is not None:
            books.set_aside(self._shelf, payment.account, record.id, payment.amount, caps=payment.caps)
        if lease_s is not None:
            job.lease_s, job.lease_until = lease_s, self._clock.time() + lease_s
        self._jobs[record.id] = job
        bisect.insort(self._ids, record.id)
        if key is not None:
            self._by_key[key] = record.id
        self._enter(record)
        if first is not None:
            await self.append(record.id, record.epoch, **first._asdict())

    async def find(self, *, tenant: str, idempotency_key: str) -> JobRecord | None:
        """The job with this key."""
        self._check_open()
        job_id = self._by_key.get((tenant, idempotency_key))
        return None if job_id is None else _record(self._jobs[job_id])

    async def get(self, job_id: str) -> JobRecord:
        """One job."""
        return _record(self._job(job_id))

    async def list_jobs(
        self,
        *,
        state: JobState | None = None,
        tenant: str | None = None,
        batch: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[JobRecord]:
        """Jobs, newest first."""
        self._check_open()
        end = len(self._ids) if before is None else bisect.bisect_left(self._ids, before)
        found: list[JobRecord] = []
        for place in reversed(range(end if limit > 0 else 0)):
            job = self._jobs[self._ids[place]]
            record = job.record
            if (
                (state is None or record.state is state)
                and (tenant is None or record.tenant == tenant)
                and (batch is None or record.batch == batch)
            ):
                found.append(_record(job))
                if len(found) >= limit:
                    break
        return found

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job, which is running from now on; returns the new epoch."""
        job = self._job(job_id)
        check_claim(
            job_id,
            state=job.record.state,
            holder=job.record.owner,
            lease_until=job.lease_until,
            owner=owner,
            now=self._clock.time(),
            force=force,
        )
        return self._claim(job, owner, lease_s=lease_s)

    async def delete(self, job_id: str) -> None:
        """Removes a job, its journal, and what is set aside for it."""
        self._check_open()
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        del self._ids[bisect.bisect_left(self._ids, job_id)]
        if job.record.idempotency_key is not None:
            del self._by_key[job.record.tenant, job.record.idempotency_key]
        books.settle(self._shelf, job_id, NOTHING)
        self._leave(job.record)
        self._waiters.tell_of_job(job_id)

    # Journals

    @property
    def is_durable(self) -> bool:
        """Nothing outlives the process."""
        return False

    async def append(
        self,
        job_id: str,
        epoch: int,
        rows: Sequence[JournalRow],
        *,
        state: JobState | None = None,
        result: dict[str, Any] | None = None,  # Any: JSON values
    ) -> None:
        """Adds rows and changes the job's state, all or nothing."""
        self._check_open()
        new_rows = encoded_rows(rows)
        new_result = None if result is None else encoded(result)
        job = self._jobs.get(job_id)
        next_seq = len(job.rows) if job else 0
        if job is None or epoch < 1 or job.record.epoch != epoch or (rows and rows[0].seq != next_seq):
            raise lease_lost(
                job_id,
                epoch=epoch,
                current_epoch=job.record.epoch if job else None,
                seq=rows[0].seq if rows else None,
                next_seq=next_seq,
            )
        now = self._clock.time()
        job.rows += new_rows
        job.result = job.result if new_result is None else new_result
        self._change(job, replace(job.record, state=state or job.record.state, updated_at=now))
        job.lease_until = lease_end(job.record.state, now=now, lease_s=job.lease_s)
        if job.record.state.is_terminal:
            books.settle(self._shelf, job_id, books.cost_in(None if job.result is None else json.loads(job.result)))
        if new_rows:
            self._waiters.tell_of_job(job_id)

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``; none for an unknown job."""
        self._check_open()
        job = self._jobs.get(job_id)
        return [] if job is None else [decoded_row(*row) for row in job.rows[max(after + 1, 0) :]]

    # Queue

    async def take(self, owner: str, *, lease_s: float, most_per_tenant: int | None = None) -> Claimed | None:
        """Claims the job that is next; None if there is none."""
        self._check_open()
        holders = Holders(now=self._clock.time())
        lost: list[str] = []
        num_running: Counter[str] = Counter()
        for job_id in self._running:
            job = self._jobs[job_id]
            if holders.has_lost(job.record.owner, job.lease_until):
                lost.append(job_id)
            else:
                num_running[job.record.tenant] += 1

        firsts = (entries[0][1] for entries in self._queued.values())
        waiting = [self._jobs[job_id].record for job_id in (*lost, *firsts)]
        places = [
            (place_in_queue(record), record.id)
            for record in waiting
            if most_per_tenant is None or num_running[record.tenant] < most_per_tenant
        ]
        if not places:
            return None
        job = self._jobs[min(places)[1]]
        epoch = self._claim(job, owner, lease_s=lease_s)
        if self._queued:
            self._waiters.tell_of_work()  # whoever else waits may have a place for the next one
        return Claimed(_record(job), epoch)

    async def ask_to_cancel(self, job_id: str) -> JobRecord:
        """Marks an unfinished job."""
        job = self._job(job_id)
        if not job.record.state.is_terminal and not job.record.is_cancel_wanted:
            job.record = replace(job.record, is_cancel_wanted=True, updated_at=self._clock.time())
            self._waiters.tell_of_work()
        return _record(job)

    async def wanted_cancelled(self, owner: str) -> list[str]:
        """Jobs of this owner that run and are to be cancelled."""
        self._check_open()
        records = (self._jobs[job_id].record for job_id in sorted(self._running))
        return [record.id for record in records if record.owner == owner and record.is_cancel_wanted]

    async def count_jobs(self, *, tenant: str | None = None) -> dict[JobState, int]:
        """How many jobs there are in each state that has any."""
        self._check_open()
        counts: Counter[JobState] = Counter()
        for (whose, state), count in self._counts.items():
            if tenant in {None, whose}:
                counts[state] += count
        return {state: count for state in JobState if (count := counts[state])}

    async def wait_for_work(self, *, timeout_s: float) -> None:
        """Returns when there may be something to take or to cancel."""
        self._check_open()
        await self._waiters.for_work(timeout_s=timeout_s)

    async def wait_for_news(self, job_id: str, *, after: int, timeout_s: float) -> None:
        """Returns when the job has a row above ``after`` or another state."""
        self._check_open()
        job = self._jobs.get(job_id)
        if job is not None and len(job.rows) <= after + 1 and not job.record.state.is_terminal:
            await self._waiters.for_news(job_id, after=after, timeout_s=timeout_s)

    # The end

    async def aclose(self) -> None:
        """Forgets everything."""
        self._is_closed = True
        for kept in (self._jobs, self._ids, self._queued, self._running, self._counts, self._by_key, self._documents):
            kept.clear()
        self._waiters.end_all()

    def check_integrity(self) -> None:
        """Raises AssertionError if a journal has gaps, or what is kept twice differs."""
        records = [job.record for job in self._jobs.values()]
        for job_id, job in self._jobs.items():
            assert [row[0] for row in job.rows] == list(range(len(job.rows))), f"{job_id}: the journal has gaps"
            assert job.record.epoch or not job.rows, f"{job_id}: rows that nobody can have written"
        assert self._ids == sorted(self._jobs), "the list of ids is wrong"
        queued = sorted((place_in_queue(record), record.id) for record in records if record.state is JobState.QUEUED)
        assert sorted(entry for entries in self._queued.values() for entry in entries) == queued, "the queue is wrong"
        assert all(entries and entries == sorted(entries) for entries in self._queued.values()), "a queue is not sorted"
        assert self._running == {record.id for record in records if record.state is JobState.RUNNING}
        assert +self._counts == Counter((record.tenant, record.state) for record in records), "the counts are wrong"
        self._shelf.check_integrity()

    def _claim(self, job: _Job, owner: str, *, lease_s: float) -> int:
        now = self._clock.time()
        epoch = job.record.epoch + 1
        self._change(job, replace(job.record, epoch=epoch, owner=owner, state=JobState.RUNNING, updated_at=now))
        job.lease_s, job.lease_until = lease_s, now + lease_s
        return epoch

    def _change(self, job: _Job, record: JobRecord) -> None:
        if record.state is job.record.state:
            job.record = record
            return
        self._leave(job.record)
        job.record = record
        self._enter(record)
        self._waiters.tell_of_job(record.id)

    def _enter(self, record: JobRecord) -> None:
        self._counts[record.tenant, record.state] += 1
        if record.state is JobState.RUNNING:
            self._running.add(record.id)
        elif record.state is JobState.QUEUED:
            bisect.insort(self._queued.setdefault(record.tenant, []), (place_in_queue(record), record.id))
            self._waiters.tell_of_work()

    def _leave(self, record: JobRecord) -> None:
        self._counts[record.tenant, record.state] -= 1
        if record.state is JobState.RUNNING:
            self._running.remove(record.id)
            if self._queued:
                self._waiters.tell_of_work()  # its tenant may have another one running
        elif record.state is JobState.QUEUED:
            entries = self._queued[record.tenant]
            del entries[bisect.bisect_left(entries, (place_in_queue(record), record.id))]
            if not entries:
                del self._queued[record.tenant]

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreFailed("the store is closed")

    def _job(self, job_id: str) -> _Job:
        self._check_open()
        job = self._jobs.get(job_id)
        if job is None:
            raise unknown_job(job_id, self._ids[-_LATEST_SHOWN:])
        return job


def _record(job: _Job) -> JobRecord:
    result = None if job.result is None else json.loads(job.result)
    return replace(job.record, spec=json.loads(job.spec), result=result)
