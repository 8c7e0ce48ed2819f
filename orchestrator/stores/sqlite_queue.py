"""The queue of jobs in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from orchestrator.store import Claimed, JobRecord, JobState
from orchestrator.stores.leases import is_dead
from orchestrator.stores.sqlite_file import SqliteFile
from orchestrator.stores.sqlite_jobs import give, has_queued, record_of

_ORDER = "priority DESC, due_at IS NULL, due_at, id"
"""As in the index ``jobs_waiting``."""
_QUEUED = "state = 'queued'"


class _Running(NamedTuple):
    """Who runs jobs at one moment.

    Attributes:
        num_by_tenant: Jobs whose lease lasts.
        dead: Owners whose process has ended.
        has_lost_jobs: Whether some job is held by nobody.
    """

    num_by_tenant: Counter[str]
    dead: list[str]
    has_lost_jobs: bool


class SqliteQueue(SqliteFile):
    """Implements `orchestrator.store.Queue`."""

    async def take(self, owner: str, *, lease_s: float, most_per_tenant: int | None = None) -> Claimed | None:
        """Claims the job that is next; None if there is none."""

        def take(connection: sqlite3.Connection) -> tuple[Claimed | None, bool]:
            now = self._clock.time()
            running = _running(connection, now=now)
            busy = [
                tenant
                for tenant, count in running.num_by_tenant.items()
                if most_per_tenant is not None and count >= most_per_tenant
            ]
            job_id = _next(connection, now=now, busy=busy, running=running)
            if job_id is None:
                return None, False
            epoch = give(connection, job_id, owner, now=now, lease_s=lease_s)
            return Claimed(record_of(connection, job_id), epoch), has_queued(connection)

        claimed, has_more = await self._write(take)
        if claimed is not None:
            self._waiters.tell_of_job(claimed.record.id)
        if has_more:
            self._waiters.tell_of_work()  # whoever else waits may have a place for the next one
        return claimed

    async def ask_to_cancel(self, job_id: str) -> JobRecord:
        """Marks an unfinished job."""

        def mark(connection: sqlite3.Connection) -> tuple[JobRecord, bool]:
            record = record_of(connection, job_id)
            if record.state.is_terminal or record.is_cancel_wanted:
                return record, False
            statement = "UPDATE jobs SET is_cancel_wanted = 1, updated_at = ? WHERE id = ?"
            connection.execute(statement, (self._clock.time(), job_id))
            return record_of(connection, job_id), True

        record, is_new = await self._write(mark)
        if is_new:
            self._waiters.tell_of_work()
        return record

    async def wanted_cancelled(self, owner: str) -> list[str]:
        """Jobs of this owner that run and are to be cancelled."""

        def select(connection: sqlite3.Connection) -> list[str]:
            statement = (
                "SELECT id FROM jobs INDEXED BY jobs_running "
                "WHERE state = 'running' AND owner = ? AND is_cancel_wanted ORDER BY id"
            )
            return [row[0] for row in connection.execute(statement, (owner,))]

        return await self._read(select)

    async def count_jobs(self, *, tenant: str | None = None) -> dict[JobState, int]:
        """How many jobs there are in each state that has any."""

        def select(connection: sqlite3.Connection) -> dict[JobState, int]:
            where, values = ("state = ?", ()) if tenant is None else ("state = ? AND tenant = ?", (tenant,))
            statement = f"SELECT sum(num) FROM counts WHERE {where}"  # noqa: S608  # constants
            counts = {state: connection.execute(statement, (state.value, *values)).fetchone()[0] for state in JobState}
            return {state: count for state, count in counts.items() if count}

        return await self._read(select)

    async def wait_for_work(self, *, timeout_s: float) -> None:
        """Returns when there may be something to take or to cancel."""
        self._check_open()
        await self._waiters.for_work(timeout_s=timeout_s)

    async def wait_for_news(self, job_id: str, *, after: int, timeout_s: float) -> None:
        """Returns when the job has a row above ``after`` or another state."""
        self._check_open()
        await self._waiters.for_news(job_id, after=after, timeout_s=timeout_s)


def _running(connection: sqlite3.Connection, *, now: float) -> _Running:
    statement = (
        "SELECT owner, tenant, count(*), sum(lease_until <= ?) FROM jobs INDEXED BY jobs_running "
        "WHERE state = 'running' GROUP BY owner, tenant"
    )
    num_by_tenant: Counter[str] = Counter()
    is_owner_dead: dict[str, bool] = {}
    num_lost = 0
    for owner, tenant, count, num_over in connection.execute(statement, (now,)):
        if owner is not None and owner not in is_owner_dead:
            is_owner_dead[owner] = is_dead(owner)
        lost = count if owner is None or is_owner_dead[owner] else num_over
        num_lost += lost
        num_by_tenant[tenant] += count - lost
    dead = [owner for owner, is_gone in is_owner_dead.items() if is_gone]
    return _Running(num_by_tenant, dead, num_lost > 0)


def _next(connection: sqlite3.Connection, *, now: float, busy: Collection[str], running: _Running) -> str | None:
    """The id of the job that is next: the first of those that lost their owner, and of each tenant's queue."""
    first = (
        f"SELECT id FROM jobs INDEXED BY jobs_waiting WHERE tenant = c.tenant AND {_QUEUED} ORDER BY {_ORDER} LIMIT 1"  # noqa: S608
    )
    waiting = (
        f"SELECT jobs.* FROM counts AS c JOIN jobs ON jobs.id = ({first}) "  # noqa: S608  # constants, question marks
        f"WHERE c.{_QUEUED} AND c.tenant NOT IN ({_places(busy)})"
    )
    lost = (
        f"SELECT * FROM jobs INDEXED BY jobs_running WHERE state = 'running' AND tenant NOT IN ({_places(busy)}) "  # noqa: S608
        f"AND (owner IS NULL OR lease_until <= ? OR owner IN ({_places(running.dead)}))"
    )
    found = f"{waiting} UNION ALL {lost}" if running.has_lost_jobs else waiting
    values = (*busy, *busy, now, *running.dead) if running.has_lost_jobs else busy
    row = connection.execute(f"SELECT id FROM ({found}) ORDER BY {_ORDER} LIMIT 1", (*values,)).fetchone()  # noqa: S608
    return None if row is None else str(row[0])


def _places(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))
