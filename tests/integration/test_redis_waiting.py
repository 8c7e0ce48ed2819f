"""Waiting at a Redis store: one connection for everybody, nothing missed, nothing kept for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores import new_owner
from orchestrator.stores.redis import RedisStore

from .redis_server import RedisServer, eventually

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_left(server: RedisServer) -> None:
    server.ask("FLUSHALL")


def num_clients(server: RedisServer) -> int:
    """Connections beside the one that asks."""
    return int(server.answer("INFO clients").partition("connected_clients:")[2].split()[0]) - 1


async def test_a_thousand_streams_share_one_connection_and_hear_of_their_own_job_only(server: RedisServer) -> None:
    store, other = await RedisStore.open(server.url), await RedisStore.open(server.url)
    ids = [f"j{number:03}" for number in range(100)]
    for job_id in ids:
        await store.create(JobRecord(id=job_id, owner=new_owner()), lease_s=60)
    woken: list[str] = []

    async def stream(job_id: str) -> None:
        await store.wait_for_news(job_id, after=-1, timeout_s=60)
        woken.append(job_id)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(1000):
            group.create_task(stream(ids[number % 100]))
        await asyncio.sleep(1)
        assert num_clients(server) <= 5, "two for calls, one for messages; the other store waits for nothing"
        await other.append("j042", 1, [JournalRow(0, "mark", {})])
        await eventually(lambda: len(woken) >= 10)
        await asyncio.sleep(0.1)
        assert woken == ["j042"] * 10
        for job_id in ids:
            await other.append(job_id, 1, [], state=JobState.CANCELLED)
    assert len(woken) == 1000
    await store.aclose()
    await other.aclose()


async def test_a_reader_that_follows_a_journal_misses_no_row_and_need_not_ask_twice(server: RedisServer) -> None:
    store, other = await RedisStore.open(server.url), await RedisStore.open(server.url)
    await store.create(JobRecord(id="a", owner=new_owner()), lease_s=60)
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 300:
            for row in await store.read("a", after=len(seen) - 1):
                seen.append(row.seq)
            await store.wait_for_news("a", after=len(seen) - 1, timeout_s=60 if len(seen) < 300 else 0)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for seq in range(300):
            await other.append("a", 1, [JournalRow(seq, "mark", {})])
            if seq % 7 == 0:
                await asyncio.sleep(0.002)
    assert seen == list(range(300))
    await store.aclose()
    await other.aclose()


async def test_who_waits_for_work_is_woken_when_the_first_lease_runs_out(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a", owner="elsewhere:1:x"), lease_s=0.6)
    await store.wait_for_work(timeout_s=0.1)
    assert await store.take(new_owner(), lease_s=60) is None
    started = time.monotonic()
    await store.wait_for_work(timeout_s=30)
    assert time.monotonic() - started < 5
    assert await store.take(new_owner(), lease_s=60) is not None
    await store.aclose()


async def test_channels_that_nobody_waits_for_are_left_and_may_be_heard_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.waiting._LINGER_S", 0.2)
    monkeypatch.setattr("orchestrator.stores.redis.waiting._SILENCE_S", 0.1)
    store = await RedisStore.open(server.url)
    for job_id in ("a", "b"):
        await store.create(JobRecord(id=job_id, owner=new_owner()), lease_s=60)
        await store.wait_for_news(job_id, after=-1, timeout_s=0.05)
    assert server.ask("PUBSUB NUMSUB {ttc:}news:a") == b"*2"
    assert server.answer("PUBSUB CHANNELS *").count("news:") == 2
    async with asyncio.timeout(10):
        await eventually(lambda: "news:" not in server.answer("PUBSUB CHANNELS *"))
        waiting = asyncio.ensure_future(store.wait_for_news("a", after=-1, timeout_s=60))
        await asyncio.sleep(0.5)  # asked several times whether it is there, too
        assert not waiting.done()
        await store.append("a", 1, [JournalRow(0, "mark", {})])
        await waiting
    await store.aclose()


async def test_who_waits_is_woken_when_the_connection_is_lost_for_news_may_have_been_missed(
    server: RedisServer,
) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a", owner=new_owner()), lease_s=60)
    await store.wait_for_work(timeout_s=0.1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(store.wait_for_work(timeout_s=60))
        group.create_task(store.wait_for_news("a", after=-1, timeout_s=60))
        await eventually(lambda: server.answer("PUBSUB CHANNELS *").count("{ttc:}") == 2)
        await asyncio.sleep(0.1)
        assert server.ask("CLIENT KILL TYPE pubsub") == b":1"
    await store.aclose()
