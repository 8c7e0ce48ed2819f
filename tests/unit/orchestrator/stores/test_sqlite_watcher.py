"""Who waits at an SQLite store hears of other processes' writes, and nobody pays while nobody waits."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store import JobRecord, JournalRow
from orchestrator.stores import SqliteStore
from orchestrator.stores.sqlite_connection import connect
from orchestrator.stores.sqlite_watcher import Watcher

FOREVER_S = 1e6


def num_watching() -> int:
    return sum(thread.name == "ttc-store-watcher" for thread in threading.enumerate())


class Counting:
    """Counts the statements of a store's watcher."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.statements: list[str] = []

    def open(self) -> sqlite3.Connection:
        connection = connect(self._path, durability="process", must_exist=True)
        connection.set_trace_callback(self.statements.append)
        return connection

    def num(self, part: str) -> int:
        return sum(part in statement for statement in self.statements)


@pytest.fixture
async def store(tmp_path: Path) -> SqliteStore:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    await store.create(JobRecord(id="a"))
    assert await store.claim("a", "elsewhere:1:x", lease_s=60) == 1
    return store


async def test_one_thread_watches_for_all_and_only_once_somebody_waits(store: SqliteStore) -> None:
    assert num_watching() == 0
    await asyncio.gather(*[store.wait_for_news("a", after=-1, timeout_s=0.1) for _ in range(200)])
    assert num_watching() == 1
    await store.aclose()
    assert num_watching() == 0


async def test_many_who_wait_cost_one_number_each_time_and_one_query_when_it_changes(store: SqliteStore) -> None:
    counting = Counting(store.path)
    watcher = Watcher(counting.open, store.path)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(300):
            group.create_task(watcher.waiters.for_news("a", after=-1, timeout_s=FOREVER_S))
        await asyncio.sleep(0.2)
        queries, looks = counting.num("FROM jobs"), counting.num("data_version")
        await asyncio.sleep(0.3)
        assert counting.num("FROM jobs") == queries
        assert 1 <= counting.num("data_version") - looks <= 7
        await store.put_document("k", "a", {})  # a change, but no news
        await asyncio.sleep(0.2)
        assert counting.num("FROM jobs") == queries + 1
        await store.append("a", 1, [JournalRow(0, "mark", {})])
    looks = counting.num("data_version")
    await asyncio.sleep(0.2)
    assert counting.num("data_version") - looks <= 1  # nobody waits any more
    await watcher.aclose()
    await store.aclose()


async def test_looking_for_work_in_vain_is_no_change(store: SqliteStore) -> None:
    other = SqliteStore(store.path)
    for _ in range(2):
        await store.wait_for_work(timeout_s=0.2)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = group.create_task(store.wait_for_work(timeout_s=FOREVER_S))
        for _ in range(5):
            assert await other.take("elsewhere:2:x", lease_s=60) is None
            await other.append("a", 1, [])
            await asyncio.sleep(0.06)
        assert not waiting.done()
        await other.ask_to_cancel("a")
    await other.aclose()
    await store.aclose()


async def test_when_the_file_is_gone_whoever_waits_is_told(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "deep" / "jobs.sqlite")
    shutil.rmtree(tmp_path / "deep")
    with pytest.raises(StoreFailed, match="not there any more"):
        async with asyncio.timeout(30):
            await store.wait_for_news("a", after=-1, timeout_s=FOREVER_S)
    await store.aclose()
