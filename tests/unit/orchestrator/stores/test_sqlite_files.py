"""What the SQLite store says and does when its file is not what it should be, or cannot grow."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest, LeaseLost, StoreFailed
from orchestrator.store import JobRecord, JournalRow
from orchestrator.stores import MemoryStore, SqliteStore, default_store_path, new_job_id, open_store
from orchestrator.stores.sqlite_schema import VERSION

ROW = JournalRow(0, "mark", {})


async def claimed(store: SqliteStore, job_id: str = "a") -> int:
    await store.create(JobRecord(id=job_id))
    return await store.claim(job_id, "elsewhere:1:x", lease_s=60)


def refusal(path: Path) -> str:
    with pytest.raises(StoreFailed) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_text_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n" * 1000)
    assert "some other file" in refusal(path)
    assert path.read_text().startswith("dear diary")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    assert "cannot be opened" in refusal(Path("/proc/nowhere/jobs.sqlite"))


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be opened" in refusal(tmp_path / "file" / "jobs.sqlite")


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    assert "another program" in refusal(path)
    assert path.read_bytes() == before


async def test_a_store_of_a_later_version_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    await SqliteStore(path).aclose()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    with pytest.raises(StoreFailed) as caught:
        SqliteStore(path)
    assert caught.value.fields()["schema_version"] == VERSION + 1
    assert "upgrade" in str(caught.value)


async def test_a_damaged_store_is_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SqliteStore(path)
    epoch = await claimed(store)
    for seq in range(300):
        await store.append("a", epoch, [JournalRow(seq, "mark", {"text": "x" * 200})])
    await store.aclose()
    with path.open("r+b") as file:
        file.seek(4096 * 4)
        file.write(os.urandom(4096 * 12))
    store = SqliteStore(path)
    with pytest.raises(StoreFailed) as caught:
        await store.read("a")
    assert "is damaged" in str(caught.value)
    with pytest.raises(AssertionError):
        store.check_integrity()
    await store.aclose()


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    path.touch()
    store = SqliteStore(path)
    await claimed(store)
    await store.aclose()


async def test_the_file_and_its_side_files_are_for_this_user_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "deep" / "er" / "jobs.sqlite")
    await claimed(store)
    files = list((tmp_path / "deep" / "er").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await store.aclose()


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_when_the_file_cannot_grow_nothing_is_half_written_and_the_store_works_again_afterwards(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    epoch = await claimed(store)
    await store.append("a", epoch, [ROW])
    big = [JournalRow(seq, "sample", {"text": "x" * 50_000}) for seq in range(1, 41)]
    with file_size_limit(600_000):
        with pytest.raises(StoreFailed) as caught:
            await store.append("a", epoch, big)
        assert "disk is full" in str(caught.value)
        assert await store.read("a") == [ROW]
        await store.append("a", epoch, [JournalRow(1, "mark", {})])  # what fits is still written
    await store.append("a", epoch, [JournalRow(row.seq + 1, row.kind, row.data) for row in big])
    assert [row.seq for row in await store.read("a")] == list(range(42))
    store.check_integrity()
    await store.aclose()


async def test_a_full_disk_fails_the_append_that_does_not_fit_and_not_those_that_wait_with_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    epochs = {job_id: await claimed(store, job_id) for job_id in "abcdefgh"}
    await store._writer.write(lambda connection: connection.execute("PRAGMA max_page_count=60"))
    sizes = {job_id: 2_000_000 if job_id == "d" else 10 for job_id in epochs}
    appends = [
        store.append(job_id, epoch, [JournalRow(0, "sample", {"text": "x" * sizes[job_id]})])
        for job_id, epoch in epochs.items()
    ]
    results = dict(zip(epochs, await asyncio.gather(*appends, return_exceptions=True), strict=True))
    assert isinstance(results.pop("d"), StoreFailed)
    assert set(results.values()) == {None}
    assert await store.read("d") == []
    store.check_integrity()
    await store.aclose()


async def test_a_file_that_is_deleted_in_use_fails_writes_instead_of_losing_them(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SqliteStore(path)
    epoch = await claimed(store)
    shutil.rmtree(tmp_path)
    with pytest.raises(StoreFailed) as caught:
        await store.append("a", epoch, [ROW])
    assert "moved or deleted" in str(caught.value)
    with pytest.raises(StoreFailed):
        await store.get("a")
    assert not path.exists()
    await store.aclose()


async def test_a_store_locked_by_another_program_for_a_while_waits(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SqliteStore(path)
    epoch = await claimed(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    pending = asyncio.ensure_future(store.append("a", epoch, [ROW]))
    await asyncio.sleep(0.2)
    assert not pending.done()
    assert await store.read("a") == []  # readers do not wait
    other.execute("ROLLBACK")
    other.close()
    await pending
    assert await store.read("a") == [ROW]
    await store.aclose()


async def test_appends_that_wait_at_the_same_time_share_a_transaction(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite", durability="power")
    jobs = {new_job_id(): 0 for _ in range(100)}
    async with asyncio.TaskGroup() as group:
        for job_id in jobs:
            group.create_task(claimed(store, job_id))
    before = store.num_commits
    async with asyncio.TaskGroup() as group:
        for job_id in jobs:
            group.create_task(store.append(job_id, 1, [ROW]))
    assert store.num_commits - before <= 10
    await store.aclose()


async def test_a_refused_append_does_not_undo_its_neighbours_in_the_same_transaction(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    for job_id in "abc":
        await claimed(store, job_id)
    results = await asyncio.gather(
        store.append("a", 1, [ROW]), store.append("b", 7, [ROW]), store.append("c", 1, [ROW]), return_exceptions=True
    )
    assert isinstance(results[1], LeaseLost)
    assert [await store.read(job_id) for job_id in "abc"] == [[ROW], [], [ROW]]
    await store.aclose()


async def test_closing_writes_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SqliteStore(path)
    epoch = await claimed(store)
    pending = [asyncio.ensure_future(store.append("a", epoch, [JournalRow(seq, "mark", {})])) for seq in range(50)]
    await asyncio.sleep(0)
    await store.aclose()
    await asyncio.gather(*pending)
    again = SqliteStore(path)
    assert len(await again.read("a")) == 50
    await again.aclose()


async def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    for attempt in (store.get("\udcff"), store.create(JobRecord(id="\udcff")), store.claim("\udcff", "o", lease_s=1)):
        with pytest.raises(InvalidRequest):
            await attempt
    await claimed(store)
    await store.aclose()


async def test_stores_are_opened_by_what_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, "memory:"):
        assert isinstance(await open_store(value), MemoryStore)
    mine = MemoryStore()
    assert await open_store(mine) is mine
    path = tmp_path / "a.sqlite"
    for value in (path, str(path), f"sqlite:{path}", f"sqlite://{path}", "sqlite:~/a.sqlite", "~/a.sqlite"):
        store = await open_store(value)
        assert isinstance(store, SqliteStore)
        assert store.path == path
        await store.aclose()
    for value in ("postgres://host", "", "sqlite:", "a\0b"):
        with pytest.raises(InvalidRequest):
            await open_store(value)


def test_the_default_path_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTC_DATA_DIR", "/data")
    assert default_store_path() == Path("/data/jobs.sqlite")
    monkeypatch.delenv("TTC_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/me/.data")
    assert default_store_path() == Path("/home/me/.data/ttc/jobs.sqlite")


def test_job_ids_sort_by_time_and_do_not_repeat() -> None:
    assert sorted(ids := [new_job_id(now=second / 1e6) for second in range(1, 200)]) == ids
    assert len({new_job_id(now=1.0) for _ in range(2000)}) == 2000
    assert {len(job_id) for job_id in ids} == {20}
