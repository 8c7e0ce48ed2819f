"""Files of earlier versions become present ones when they are opened, whole or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from orchestrator.budget import NOTHING, Amount
from orchestrator.errors import StoreFailed
from orchestrator.store import JobRecord, JobState, JournalRow, Payment
from orchestrator.stores import SqliteStore, new_owner
from orchestrator.stores.sqlite_schema import VERSION

VERSION_1 = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, spec TEXT NOT NULL, state TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
    epoch INTEGER NOT NULL, owner TEXT, result TEXT, lease_s REAL NOT NULL DEFAULT 0,
    lease_until REAL NOT NULL DEFAULT 0, next_seq INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE TABLE journal (
    job_id TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
INSERT INTO jobs VALUES ('a', '{"x":1}', 'succeeded', 1.5, 2.5, 1, 'h:1:x', '{"answer":"42"}', 60, 0, 2);
INSERT INTO jobs VALUES ('b', '{}', 'running', 3, 4, 2, 'h:1:x', NULL, 1e9, 1e12, 1);
INSERT INTO jobs VALUES ('c', '{}', 'queued', 5, 5, 0, NULL, NULL, 0, 0, 0);
INSERT INTO journal VALUES ('a', 0, 'begin', '{"n":0}'), ('a', 1, 'final', '{}'), ('b', 0, 'begin', '{}');
PRAGMA application_id=1953784625;
PRAGMA user_version=1;
"""


def old_file(path: Path, *, extra: str = "") -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1 + extra)
    connection.close()
    return path


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(number)


async def test_a_file_of_version_1_is_read_and_goes_on_as_it_was(tmp_path: Path) -> None:
    path = old_file(tmp_path / "jobs.sqlite")
    store = SqliteStore(path)
    assert version(path) == VERSION
    assert await store.get("a") == JobRecord(
        id="a",
        spec={"x": 1},
        state=JobState.SUCCEEDED,
        created_at=1.5,
        updated_at=2.5,
        epoch=1,
        owner="h:1:x",
        result={"answer": "42"},
    )
    assert [job.id for job in await store.list_jobs(tenant="")] == ["c", "b", "a"]
    assert await store.read("a") == [JournalRow(0, "begin", {"n": 0}), JournalRow(1, "final", {})]
    assert await store.count_jobs() == {JobState.SUCCEEDED: 1, JobState.RUNNING: 1, JobState.QUEUED: 1}
    await store.append("b", 2, [JournalRow(1, "mark", {})])  # whoever held it still does
    taken = await store.take(new_owner(), lease_s=60)
    assert taken is not None
    assert (taken.record.id, taken.epoch) == ("c", 1)
    await store.create(JobRecord(id="d"), payment=Payment("k", Amount(model_calls=1), {"day": None}))
    assert await store.spent("k", "day") == (NOTHING, Amount(model_calls=1))
    store.check_integrity()
    await store.aclose()
    again = SqliteStore(path)
    assert [job.id for job in await again.list_jobs()] == ["d", "c", "b", "a"]
    await again.aclose()


async def test_a_file_that_cannot_be_brought_up_to_date_stays_as_it_was(tmp_path: Path) -> None:
    path = old_file(tmp_path / "jobs.sqlite", extra="CREATE TABLE documents (x)")  # whoever made that
    with pytest.raises(StoreFailed) as caught:
        SqliteStore(path)
    assert "documents" in str(caught.value)
    assert version(path) == 1
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id, spec FROM jobs").fetchall() == [("a", '{"x":1}'), ("b", "{}"), ("c", "{}")]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    assert tables == {"jobs", "jobs_by_state", "journal", "documents"}
    connection.close()


async def test_many_that_open_an_old_file_at_once_all_get_it(tmp_path: Path) -> None:
    path = old_file(tmp_path / "jobs.sqlite")
    stores = await asyncio.gather(*[asyncio.to_thread(SqliteStore, path) for _ in range(8)])
    for store in stores:
        assert len(await store.list_jobs()) == 3
        await store.aclose()


async def test_new_files_and_old_ones_have_the_same_tables(tmp_path: Path) -> None:
    def tables(path: Path) -> list[tuple[str, str]]:
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT type, name, tbl_name FROM sqlite_master ORDER BY name").fetchall()
        columns = [(row[1], *connection.execute(f"PRAGMA table_info({row[1]})").fetchall()) for row in rows]
        connection.close()
        return [*rows, *columns]

    new, old = tmp_path / "new.sqlite", old_file(tmp_path / "old.sqlite")
    for path in (new, old):
        await SqliteStore(path).aclose()
    assert tables(new) == tables(old)
