"""Jobs in memory: as fast as it gets, gone with the process. For tests, one-off runs and simulation."""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import StoreFailed
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores.leases import check_claim, lease_end
from orchestrator.stores.rows import decoded_row, encoded, encoded_rows, job_exists, lease_lost, unknown_job

_LATEST_SHOWN = 5


@dataclass(slots=True)
class _Job:
    record: JobRecord
    spec: str
    result: str | None = None
    lease_s: float = 0.0
    lease_until: float = 0.0
    rows: list[tuple[int, str, str]] = field(default_factory=list)


class MemoryStore:
    """Implements `Store` within one process; never suspends.

    Values are kept as JSON text, so what cannot be journaled fails here as it would in a database, and changing a
    dictionary later changes nothing.

    Args:
        clock: For leases.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._jobs: dict[str, _Job] = {}
        self._is_closed = False

    async def create(self, record: JobRecord) -> None:
        """Adds a job."""
        self._check_open()
        if record.id in self._jobs:
            raise job_exists(record.id)
        result = None if record.result is None else encoded(record.result)
        self._jobs[record.id] = _Job(replace(record, spec={}, result=None), encoded(record.spec), result)

    async def get(self, job_id: str) -> JobRecord:
        """One job."""
        return _record(self._job(job_id))

    async def list_jobs(
        self, *, state: JobState | None = None, limit: int = 50, before: str | None = None
    ) -> list[JobRecord]:
        """Jobs, newest first."""
        self._check_open()
        ids = sorted(self._jobs)
        end = len(ids) if before is None else bisect.bisect_left(ids, before)
        found: list[JobRecord] = []
        for job_id in reversed(ids[:end]):
            if len(found) >= limit:
                break
            if state is None or self._jobs[job_id].record.state is state:
                found.append(_record(self._jobs[job_id]))
        return found

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job, which is running from now on; returns the new epoch."""
        job, now = self._job(job_id), self._clock.time()
        record = job.record
        check_claim(
            job_id,
            state=record.state,
            holder=record.owner,
            lease_until=job.lease_until,
            owner=owner,
            now=now,
            force=force,
        )
        job.record = replace(record, epoch=record.epoch + 1, owner=owner, state=JobState.RUNNING, updated_at=now)
        job.lease_s, job.lease_until = lease_s, now + lease_s
        return job.record.epoch

    async def delete(self, job_id: str) -> None:
        """Removes a job and its journal."""
        self._check_open()
        self._jobs.pop(job_id, None)

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
        job.record = replace(job.record, state=state or job.record.state, updated_at=now)
        job.lease_until = lease_end(job.record.state, now=now, lease_s=job.lease_s)

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``; none for an unknown job."""
        self._check_open()
        job = self._jobs.get(job_id)
        return [] if job is None else [decoded_row(*row) for row in job.rows[max(after + 1, 0) :]]

    async def aclose(self) -> None:
        """Forgets everything."""
        self._is_closed = True
        self._jobs.clear()

    def check_integrity(self) -> None:
        """Raises AssertionError if a journal has gaps."""
        for job_id, job in self._jobs.items():
            assert [row[0] for row in job.rows] == list(range(len(job.rows))), f"{job_id}: the journal has gaps"
            assert job.record.epoch or not job.rows, f"{job_id}: rows that nobody can have written"

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreFailed("the store is closed")

    def _job(self, job_id: str) -> _Job:
        self._check_open()
        job = self._jobs.get(job_id)
        if job is None:
            raise unknown_job(job_id, sorted(self._jobs)[-_LATEST_SHOWN:])
        return job


def _record(job: _Job) -> JobRecord:
    result = None if job.result is None else json.loads(job.result)
    return replace(job.record, spec=json.loads(job.spec), result=result)
