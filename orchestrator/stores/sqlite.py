"""Jobs in one SQLite file: the embedded default. Any number of processes on one machine may share it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores.leases import check_claim, lease_end
from orchestrator.stores.rows import decoded_row, encoded, encoded_rows, job_exists, lease_lost, unknown_job
from orchestrator.stores.sqlite_connection import Durability, connect, failure
from orchestrator.stores.sqlite_writer import GroupWriter

_T = TypeVar("_T")

_NUM_READERS = 2
_LATEST_SHOWN = 5
_COLUMNS = "id, spec, state, created_at, updated_at, epoch, owner, result"


class SqliteStore:
    """Implements `Store`.

    Appends of many jobs that wait at the same time become one transaction; each returns when it is durable. What
    that means is chosen by ``durability``:

    - ``"process"`` (SQLite's synchronous=NORMAL): survives the death of any process, by SIGKILL too, at any moment.
      After a power cut or a crash of the operating system the last transactions may be missing; the file is whole.
    - ``"power"`` (synchronous=FULL): survives those too; each transaction waits for the disk.

    Not for network file systems, whose locks SQLite cannot trust.

    Args:
        path: The file; made if there is none, with its folders, readable by this user only.
        durability: What an acknowledged append survives.
        clock: For leases; processes that share the file must agree on the time.

    Raises:
        StoreFailed: The file cannot be opened, is no store, or was written by a later version.
    """

    def __init__(self, path: Path | str, *, durability: Durability = "process", clock: Clock | None = None) -> None:
        self.path = Path(path).absolute()
        self._clock = clock or SystemClock()
        self._durability: Durability = durability
        self._writer = GroupWriter(connect(self.path, durability=durability), self.path)
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="ttc-store-reader")
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._is_closed = False

    @property
    def num_commits(self) -> int:
        """Transactions so far; fewer than appends where these were grouped."""
        return self._writer.num_commits

    # Jobs

    async def create(self, record: JobRecord) -> None:
        """Adds a job."""
        values = (
            record.id,
            encoded(record.spec),
            record.state.value,
            record.created_at,
            record.updated_at,
            record.epoch,
            record.owner,
            None if record.result is None else encoded(record.result),
        )

        def insert(connection: sqlite3.Connection) -> None:
            statement = f"INSERT OR IGNORE INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constant
            if connection.execute(statement, values).rowcount == 0:
                raise job_exists(record.id)

        await self._write(insert)

    async def get(self, job_id: str) -> JobRecord:
        """One job."""

        def select(connection: sqlite3.Connection) -> JobRecord:
            statement = f"SELECT {_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608  # constant
            row = connection.execute(statement, (job_id,)).fetchone()
            if row is None:
                raise _unknown(connection, job_id)
            return _record(row)

        return await self._read(select)

    async def list_jobs(
        self, *, state: JobState | None = None, limit: int = 50, before: str | None = None
    ) -> list[JobRecord]:
        """Jobs, newest first."""
        conditions, values = ["1"], list[object]()
        if state is not None:
            conditions.append("state = ?")
            values.append(state.value)
        if before is not None:
            conditions.append("id < ?")
            values.append(before)
        statement = f"SELECT {_COLUMNS} FROM jobs WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"  # noqa: S608  # constants

        def select(connection: sqlite3.Connection) -> list[JobRecord]:
            return [_record(row) for row in connection.execute(statement, (*values, max(limit, 0)))]

        return await self._read(select)

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job, which is running from now on; returns the new epoch."""

        def take(connection: sqlite3.Connection) -> int:
            statement = "SELECT state, owner, lease_until, epoch FROM jobs WHERE id = ?"
            row = connection.execute(statement, (job_id,)).fetchone()
            if row is None:
                raise _unknown(connection, job_id)
            state, holder, lease_until, epoch = row
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
            connection.execute(
                "UPDATE jobs SET epoch = ?, owner = ?, state = ?, updated_at = ?, lease_s = ?, lease_until = ? "
                "WHERE id = ?",
                (epoch + 1, owner, JobState.RUNNING.value, now, lease_s, now + lease_s, job_id),
            )
            return int(epoch) + 1

        return await self._write(take)

    async def delete(self, job_id: str) -> None:
        """Removes a job and its journal."""

        def remove(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM journal WHERE job_id = ?", (job_id,))
            connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

        await self._write(remove)

    # Journals

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

        def insert(connection: sqlite3.Connection) -> None:
            statement = "SELECT epoch, next_seq, state, lease_s FROM jobs WHERE id = ?"
            row = connection.execute(statement, (job_id,)).fetchone()
            current_epoch, next_seq, current_state, lease_s = row or (None, 0, "", 0)
            seq = rows[0].seq if rows else None
            if epoch < 1 or current_epoch != epoch or seq not in {None, next_seq}:
                raise lease_lost(job_id, epoch=epoch, current_epoch=current_epoch, seq=seq, next_seq=next_seq)
            now = self._clock.time()
            new_state = state or JobState(current_state)
            connection.execute(
                "UPDATE jobs SET next_seq = ?, state = ?, updated_at = ?, lease_until = ?, "
                "result = coalesce(?, result) WHERE id = ?",
                (
                    next_seq + len(new_rows),
                    new_state.value,
                    now,
                    lease_end(new_state, now=now, lease_s=lease_s),
                    new_result,
                    job_id,
                ),
            )
            connection.executemany("INSERT INTO journal (job_id, seq, kind, data) VALUES (?, ?, ?, ?)", new_rows)

        await self._write(insert)

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``; none for an unknown job."""

        def select(connection: sqlite3.Connection) -> list[JournalRow]:
            statement = "SELECT seq, kind, data FROM journal WHERE job_id = ? AND seq > ? ORDER BY seq"
            return [decoded_row(*row) for row in connection.execute(statement, (job_id, after))]

        return await self._read(select)

    # The end, and the state of the file

    async def aclose(self) -> None:
        """Writes what was asked for and closes the file; safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._writer.aclose()
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reading:
            connection.close()

    def check_integrity(self) -> None:
        """Raises AssertionError if the file is damaged, a journal has gaps, or a record contradicts it. Blocks."""
        connection = connect(self.path, durability=self._durability, must_exist=True)
        try:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            assert verdict == "ok", f"{self.path}: {verdict}"
            odd = connection.execute(
                "SELECT job_id, count(*), min(seq), max(seq), next_seq FROM journal LEFT JOIN jobs ON id = job_id "
                "GROUP BY job_id HAVING next_seq IS NULL OR count(*) != next_seq OR min(seq) != 0 "
                "OR max(seq) != next_seq - 1"
            ).fetchall()
            assert not odd, f"journals that their records contradict (job, rows, first, last, next): {odd[:3]}"
            empty = connection.execute(
                "SELECT id FROM jobs WHERE next_seq > 0 AND NOT EXISTS (SELECT 1 FROM journal WHERE job_id = id)"
            ).fetchall()
            assert not empty, f"journals that are gone: {empty[:3]}"
        except sqlite3.Error as error:
            raise AssertionError(str(failure(error, self.path))) from error
        finally:
            connection.close()

    async def _write(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check_open()
        try:
            return await self._writer.write(run)
        except UnicodeEncodeError as error:
            raise _unusable(error) from None

    async def _read(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, run)

    def _read_now(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = connect(self.path, durability=self._durability, must_exist=True)
                connection.execute("PRAGMA query_only=1")
                self._reading.append(connection)
            return run(connection)
        except sqlite3.Error as error:
            raise failure(error, self.path) from error
        except UnicodeEncodeError as error:
            raise _unusable(error) from None

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreFailed(f"the store {str(self.path)!r} is closed", path=str(self.path))


def _record(row: tuple[Any, ...]) -> JobRecord:  # Any: columns of several types
    job_id, spec, state, created_at, updated_at, epoch, owner, result = row
    return JobRecord(
        id=job_id,
        spec=json.loads(spec),
        state=JobState(state),
        created_at=created_at,
        updated_at=updated_at,
        epoch=epoch,
        owner=owner,
        result=None if result is None else json.loads(result),
    )


def _unknown(connection: sqlite3.Connection, job_id: str) -> Exception:
    latest = connection.execute("SELECT id FROM jobs ORDER BY id DESC LIMIT ?", (_LATEST_SHOWN,)).fetchall()
    return unknown_job(job_id, [row[0] for row in latest])


def _unusable(error: UnicodeEncodeError) -> InvalidRequest:
    """A lone surrogate, for instance from a command line that is no UTF-8; SQLite keeps Unicode only."""
    return InvalidRequest(f"{error.object!r} is no Unicode text", field="job_id", value=ascii(error.object))
