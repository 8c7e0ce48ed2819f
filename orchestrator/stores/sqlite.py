"""Jobs in one SQLite file: the embedded default. Any number of processes on one machine may share it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from orchestrator.clock import Clock, SystemClock
from orchestrator.stores.sqlite_accounts import SqliteAccounts, SqliteDocuments, SqliteShelf
from orchestrator.stores.sqlite_connection import Durability, connect, failure
from orchestrator.stores.sqlite_jobs import SqliteJobs
from orchestrator.stores.sqlite_queue import SqliteQueue


class SqliteStore(SqliteJobs, SqliteQueue, SqliteAccounts, SqliteDocuments):
    """Implements `Store`.

    Writes of many jobs that wait at the same time become one transaction; each returns when it is durable. What
    that means is chosen by ``durability``:

    - ``"process"`` (SQLite's synchronous=NORMAL): survives the death of any process, by SIGKILL too, at any moment.
      After a power cut or a crash of the operating system the last transactions may be missing; the file is whole.
    - ``"power"`` (synchronous=FULL): survives those too; each transaction waits for the disk.

    Not for network file systems, whose locks SQLite cannot trust.

    Args:
        path: The file; made if there is none, with its folders, readable by this user only. A file of an earlier
            version is brought to the present one when it is opened.
        durability: What an acknowledged write survives.
        clock: For leases and rates; processes that share the file must agree on the time.

    Raises:
        StoreFailed: The file cannot be opened, is no store, or was written by a later version.
    """

    def __init__(self, path: Path | str, *, durability: Durability = "process", clock: Clock | None = None) -> None:
        super().__init__(path, durability=durability, clock=clock or SystemClock())

    def check_integrity(self) -> None:
        """Raises AssertionError if the file is damaged, a journal has gaps, or what is kept twice differs. Blocks."""
        connection = connect(self.path, durability=self._durability, must_exist=True)
        try:
            connection.execute("BEGIN")  # one moment of the file
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            assert verdict == "ok", f"{self.path}: {verdict}"
            for what, statement in _CONTRADICTIONS.items():
                found = connection.execute(statement).fetchall()
                assert not found, f"{what}: {found[:3]}"
            SqliteShelf(connection).check_integrity()
        except sqlite3.Error as error:
            raise AssertionError(str(failure(error, self.path))) from error
        finally:
            connection.close()


_CONTRADICTIONS = {
    "journals that their records contradict (job, rows, first, last, next)": (
        "SELECT job_id, count(*), min(seq), max(seq), next_seq FROM journal LEFT JOIN jobs ON id = job_id "
        "GROUP BY job_id HAVING next_seq IS NULL OR count(*) != next_seq OR min(seq) != 0 OR max(seq) != next_seq - 1"
    ),
    "journals that are gone": (
        "SELECT id FROM jobs WHERE next_seq > 0 AND NOT EXISTS (SELECT 1 FROM journal WHERE job_id = id)"
    ),
    "jobs without their texts": "SELECT id FROM jobs WHERE NOT EXISTS (SELECT 1 FROM texts WHERE job_id = id)",
    "texts of no job": "SELECT job_id FROM texts WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = job_id)",
    "counts that are wrong (tenant, state, count)": (
        "SELECT tenant, state, num FROM counts WHERE num = 0 OR num != "
        "(SELECT count(*) FROM jobs WHERE jobs.tenant = counts.tenant AND jobs.state = counts.state)"
    ),
    "jobs that are not counted": (
        "SELECT id FROM jobs WHERE NOT EXISTS "
        "(SELECT 1 FROM counts WHERE jobs.tenant = counts.tenant AND jobs.state = counts.state)"
    ),
}
