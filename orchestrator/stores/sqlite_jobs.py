"""Jobs and their journals in an SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from orchestrator.budget import NOTHING
from orchestrator.store import Change, JobRecord, JobState, JournalRow, Payment
from orchestrator.stores import books
from orchestrator.stores.leases import check_claim, lease_end
from orchestrator.stores.rows import (
    decoded_row,
    encoded,
    encoded_rows,
    job_exists,
    key_exists,
    lease_lost,
    started,
    unknown_job,
)
from orchestrator.stores.sqlite_accounts import SqliteShelf
from orchestrator.stores.sqlite_file import SqliteFile

_LATEST_SHOWN = 5
_COLUMNS = (
    "id, state, tenant, key_id, priority, due_at, batch, idempotency_key, is_cancel_wanted, created_at, updated_at, "
    "epoch, owner"
)
_RECORDS = f"SELECT {_COLUMNS}, spec, result FROM jobs JOIN texts ON job_id = id"  # noqa: S608  # constants
_NEW_JOB = (
    f"INSERT INTO jobs ({_COLUMNS}, lease_s, lease_until, next_seq) "  # noqa: S608  # constants
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NEW_ROW = "INSERT INTO journal (job_id, seq, kind, data) VALUES (?, ?, ?, ?)"


class _Move(NamedTuple):
    """What an append has changed."""

    before: JobState
    after: JobState


class SqliteJobs(SqliteFile):
    """Implements `orchestrator.store.Jobs` and `orchestrator.store.Journals`."""

    async def create(
        self,
        record: JobRecord,
        *,
        lease_s: float | None = None,
        payment: Payment | None = None,
        first: Change | None = None,
    ) -> None:
        """Adds a job and sets aside what it may cost; what is appended to it at once is part of the same write."""
        given = record
        record = record if lease_s is None else started(record)
        rows: list[tuple[object, ...]] = []
        if first is not None:
            rows = [(record.id, *row) for row in encoded_rows(first.rows)]
            state = first.state or record.state
            record = replace(record, state=state, result=first.result, updated_at=self._clock.time())
        spec, result = encoded(record.spec), None if record.result is None else encoded(record.result)

        def insert(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (record.id,)).fetchone():
                raise job_exists(record.id)
            if given.idempotency_key is not None:
                other = _id_of_key(connection, record.tenant, given.idempotency_key)
                if other is not None:
                    raise key_exists(other, record)
            if payment is not None:
                _pay(SqliteShelf(connection), record, payment)
            lease = (0.0, 0.0)
            if lease_s is not None:
                lease = (lease_s, lease_end(record.state, now=self._clock.time(), lease_s=lease_s))
            connection.execute(_NEW_JOB, (*_values(record), *lease, len(rows)))
            connection.execute("INSERT INTO texts (job_id, spec, result) VALUES (?, ?, ?)", (record.id, spec, result))
            connection.executemany(_NEW_ROW, rows)

        await self._write(insert)
        if record.state is JobState.QUEUED:
            self._waiters.tell_of_work()

    async def find(self, *, tenant: str, idempotency_key: str) -> JobRecord | None:
        """The job with this key."""

        def select(connection: sqlite3.Connection) -> JobRecord | None:
            job_id = _id_of_key(connection, tenant, idempotency_key)
            return None if job_id is None else record_of(connection, job_id)

        return await self._read(select)

    async def get(self, job_id: str) -> JobRecord:
        """One job."""
        return await self._read(lambda connection: record_of(connection, job_id))

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
        other = "" if batch is None else "+"  # of several indexes, a batch's is the one to use
        conditions = {"batch = ?": batch, f"{other}tenant = ?": tenant, f"{other}state = ?": state, "id < ?": before}
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = " AND ".join(given or ["1"])
        values = [*map(str, given.values()), max(limit, 0)]

        def select(connection: sqlite3.Connection) -> list[JobRecord]:
            rows = connection.execute(f"{_RECORDS} WHERE {where} ORDER BY id DESC LIMIT ?", values)
            return [_record(row) for row in rows]

        return await self._read(select)

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job, which is running from now on; returns the new epoch."""

        def take(connection: sqlite3.Connection) -> int:
            statement = "SELECT state, owner, lease_until FROM jobs WHERE id = ?"
            row = connection.execute(statement, (job_id,)).fetchone()
            if row is None:
                raise unknown(connection, job_id)
            state, holder, lease_until = row
            now = self._clock.time()
            check_claim(
                job_id,
                state=JobState(state),
                holder=holder,
                lease_until=lease_until,
                owner=owner,
                now=now,
                force=force,
            )
            return give(connection, job_id, owner, now=now, lease_s=lease_s)

        epoch = await self._write(take)
        self._waiters.tell_of_job(job_id)
        return epoch

    async def delete(self, job_id: str) -> None:
        """Removes a job, its journal, and what is set aside for it."""

        def remove(connection: sqlite3.Connection) -> None:
            if connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount:
                connection.execute("DELETE FROM texts WHERE job_id = ?", (job_id,))
                connection.execute("DELETE FROM journal WHERE job_id = ?", (job_id,))
                books.settle(SqliteShelf(connection), job_id, NOTHING)

        await self._write(remove)
        self._waiters.tell_of_job(job_id)

    @property
    def is_durable(self) -> bool:
        """A file outlives the process."""
        return True

    async def append(
        self,
        job_id: str,
        epoch: int,
        rows: Sequence[JournalRow],
        *,
        state: JobState | None = None,
        result: dict[str, Any] | None = None,  # Any: JSON values
    ) -> None:
        """Adds rows and changes the job's state, all or nothing; carried out even if the caller is cancelled."""
        new_rows = [(job_id, *row) for row in encoded_rows(rows)]
        new_result = None if result is None else encoded(result)

        def insert(connection: sqlite3.Connection) -> tuple[_Move, bool]:
            statement = "SELECT epoch, next_seq, state, lease_s FROM jobs WHERE id = ?"
            row = connection.execute(statement, (job_id,)).fetchone()
            current_epoch, next_seq, current_state, lease_s = row or (None, 0, "", 0)
            seq = rows[0].seq if rows else None
            if epoch < 1 or current_epoch != epoch or seq not in {None, next_seq}:
                raise lease_lost(job_id, epoch=epoch, current_epoch=current_epoch, seq=seq, next_seq=next_seq)
            move = _Move(JobState(current_state), state or JobState(current_state))
            now = self._clock.time()
            connection.execute(
                "UPDATE jobs SET next_seq = ?, updated_at = ?, lease_until = ? WHERE id = ?",
                (next_seq + len(new_rows), now, lease_end(move.after, now=now, lease_s=lease_s), job_id),
            )
            if move.before is not move.after:  # indexes and counts know the state, but nothing else of an append
                connection.execute("UPDATE jobs SET state = ? WHERE id = ?", (move.after.value, job_id))
            if new_result is not None:
                connection.execute("UPDATE texts SET result = ? WHERE job_id = ?", (new_result, job_id))
            connection.executemany(_NEW_ROW, new_rows)
            if move.after.is_terminal:
                _settle(connection, job_id)
            has_moved = move.before is not move.after and JobState.WAITING is not move.before
            return move, has_moved and has_queued(connection)

        move, has_work = await self._write(insert)
        if rows or move.before is not move.after:
            self._waiters.tell_of_job(job_id)
        if has_work:
            self._waiters.tell_of_work()

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``; none for an unknown job."""

        def select(connection: sqlite3.Connection) -> list[JournalRow]:
            statement = "SELECT seq, kind, data FROM journal WHERE job_id = ? AND seq > ? ORDER BY seq"
            return [decoded_row(*row) for row in connection.execute(statement, (job_id, after))]

        return await self._read(select)


def record_of(connection: sqlite3.Connection, job_id: str) -> JobRecord:
    """One job.

    Raises:
        UnknownName: There is no such job.
    """
    row = connection.execute(f"{_RECORDS} WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise unknown(connection, job_id)
    return _record(row)


def has_queued(connection: sqlite3.Connection) -> bool:
    """Whether any job waits for somebody to take it."""
    return connection.execute("SELECT 1 FROM counts WHERE state = 'queued' LIMIT 1").fetchone() is not None


def give(connection: sqlite3.Connection, job_id: str, owner: str, *, now: float, lease_s: float) -> int:
    """Lets ``owner`` run a job that it may have; returns the new epoch."""
    connection.execute(
        "UPDATE jobs SET epoch = epoch + 1, owner = ?, state = 'running', updated_at = ?, lease_s = ?, lease_until = ? "
        "WHERE id = ?",
        (owner, now, lease_s, now + lease_s, job_id),
    )
    epoch: int = connection.execute("SELECT epoch FROM jobs WHERE id = ?", (job_id,)).fetchone()[0]
    return epoch


def unknown(connection: sqlite3.Connection, job_id: str) -> Exception:
    """There is no such job."""
    latest = connection.execute("SELECT id FROM jobs ORDER BY id DESC LIMIT ?", (_LATEST_SHOWN,)).fetchall()
    return unknown_job(job_id, [row[0] for row in latest])


def _pay(shelf: SqliteShelf, record: JobRecord, payment: Payment) -> None:
    """Sets aside what a new job may cost; books what it has cost if it ends with that."""
    if record.state.is_terminal and not payment.is_capped:
        books.charge(shelf, payment.account, books.cost_in(record.result), periods=payment.caps)
        return
    books.set_aside(shelf, payment.account, record.id, payment.amount, caps=payment.caps)
    if record.state.is_terminal:
        books.settle(shelf, record.id, books.cost_in(record.result))


def _settle(connection: sqlite3.Connection, job_id: str) -> None:
    shelf = SqliteShelf(connection)
    if shelf.hold(job_id) is None:
        return
    (text,) = connection.execute("SELECT result FROM texts WHERE job_id = ?", (job_id,)).fetchone()
    books.settle(shelf, job_id, books.cost_in(None if text is None else json.loads(text)))


def _id_of_key(connection: sqlite3.Connection, tenant: str, idempotency_key: str) -> str | None:
    statement = "SELECT id FROM jobs WHERE tenant = ? AND idempotency_key = ?"
    row = connection.execute(statement, (tenant, idempotency_key)).fetchone()
    return None if row is None else str(row[0])


def _values(record: JobRecord) -> tuple[object, ...]:
    """In the order of the columns."""
    return (
        record.id,
        record.state.value,
        record.tenant,
        record.key_id,
        record.priority,
        record.due_at,
        record.batch,
        record.idempotency_key,
        record.is_cancel_wanted,
        record.created_at,
        record.updated_at,
        record.epoch,
        record.owner,
    )


def _record(row: tuple[Any, ...]) -> JobRecord:  # Any: columns of several types
    job_id, state, tenant, key_id, priority, due_at, batch, idempotency_key, is_cancel_wanted, *others = row
    created_at, updated_at, epoch, owner, spec, result = others
    return JobRecord(
        id=job_id,
        spec=json.loads(spec),
        state=JobState(state),
        created_at=created_at,
        updated_at=updated_at,
        epoch=epoch,
        owner=owner,
        result=None if result is None else json.loads(result),
        tenant=tenant,
        key_id=key_id,
        priority=priority,
        due_at=due_at,
        batch=batch,
        idempotency_key=idempotency_key,
        is_cancel_wanted=bool(is_cancel_wanted),
    )
