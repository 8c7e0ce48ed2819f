"""A Redis server that dies, comes back, hangs or loses answers: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store import JobRecord, JobState, JournalRow, Payment
from orchestrator.stores import new_owner
from orchestrator.stores.redis import RedisStore
from orchestrator.testing.accounts_contract import COST, RESULT

from .redis_server import RedisServer, eventually

WORKER = Path(__file__).with_name("redis_worker.py")
pytestmark = [pytest.mark.server, pytest.mark.crash]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, appendfsync="always") as server:
        yield server


def row(seq: int) -> JournalRow:
    return JournalRow(seq, "mark", {"n": seq})


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_a_server_killed_under_writes_has_all_that_it_acknowledged_and_writers_go_on(
    server: RedisServer, kills: int
) -> None:
    store = await RedisStore.open(server.url)
    chance = random.Random(11)
    acknowledged: dict[str, int] = {}
    is_over = False

    async def write(job_id: str) -> None:
        await store.create(JobRecord(id=job_id))
        epoch = await store.claim(job_id, new_owner(), lease_s=600)
        while not is_over:
            seq = acknowledged.get(job_id, 0)
            await store.append(job_id, epoch, [row(seq), row(seq + 1)])
            acknowledged[job_id] = seq + 2

    async with asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(write(f"j{number:02}"))
        for _ in range(kills):
            before = sum(acknowledged.values())
            await asyncio.sleep(0.1 + chance.random() * 0.2)
            assert sum(acknowledged.values()) > before, "they write"
            server.kill()
            server.start()
        await asyncio.sleep(0.3)
        is_over = True
    assert len(acknowledged) == 16
    for job_id, count in acknowledged.items():
        assert await store.read(job_id) == [row(seq) for seq in range(count)]
    store.check_integrity()
    await store.aclose()


def start_writer(server: RedisServer) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), "write", server.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_what_processes_were_told_is_there_after_server_and_processes_were_killed(server: RedisServer) -> None:
    writers = [start_writer(server) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
    await asyncio.sleep(0.2)
    server.kill()
    acknowledged: dict[str, int] = {}
    for writer in writers:
        writer.kill()
        for line in writer.communicate()[0].splitlines(keepends=True):
            if line.endswith("\n"):
                job_id, count = line.split()
                acknowledged[job_id] = int(count)
    server.start()
    store = await RedisStore.open(server.url)
    assert len(acknowledged) == 16
    for job_id, count in acknowledged.items():
        journal = await store.read(job_id)
        assert len(journal) >= count
        assert [row.seq for row in journal] == list(range(len(journal)))
    store.check_integrity()
    taken = 0
    while await store.take(new_owner(), lease_s=60) is not None:
        taken += 1
    assert taken == 16, "their owners are dead"
    await store.aclose()


async def test_a_server_that_is_away_is_named_and_one_that_is_back_is_used_again(server: RedisServer) -> None:
    store = await RedisStore.open(server.url, patience_s=0.5)
    await store.create(JobRecord(id="a"))
    epoch = await store.claim("a", new_owner(), lease_s=60)
    server.kill()
    started = time.monotonic()
    for attempt in (store.append("a", epoch, [row(0)]), store.read("a"), store.take(new_owner(), lease_s=60)):
        with pytest.raises(StoreFailed) as caught:
            await attempt
        assert server.url in str(caught.value)
        assert "is redis-server running there?" in str(caught.value)
    await store.wait_for_work(timeout_s=0.1)
    assert 0.5 <= time.monotonic() - started < 10
    server.start()
    await store.append("a", epoch, [row(0)])
    assert await store.read("a") == [row(0)]
    server.kill()
    with pytest.raises(AssertionError, match="cannot be reached"):
        store.check_integrity()
    await store.aclose()


async def test_a_server_that_hangs_fails_calls_in_time(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.calls.ANSWER_S", 0.3)
    store = await RedisStore.open(server.url, patience_s=0.5)
    server.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreFailed, match="does not answer in time"):
            await store.get("a")
        assert time.monotonic() - started < 5
    finally:
        server.signal(signal.SIGCONT)
    assert await store.list_jobs() == []
    await store.aclose()


async def test_who_waits_hears_of_news_after_the_server_was_away(server: RedisServer) -> None:
    store, other = await RedisStore.open(server.url), await RedisStore.open(server.url)
    await store.create(JobRecord(id="a"))
    epoch = await store.claim("a", new_owner(), lease_s=60)
    await store.wait_for_news("a", after=-1, timeout_s=0.1)
    server.kill()
    server.start()
    await other.append("a", epoch, [row(0)])
    async with asyncio.timeout(15):
        await store.wait_for_news("a", after=-1, timeout_s=100)
        while not await store.read("a", after=-1):
            await store.wait_for_news("a", after=-1, timeout_s=100)
        task = asyncio.ensure_future(store.wait_for_news("a", after=0, timeout_s=100))
        await asyncio.sleep(2)  # it has its connection back
        await other.append("a", epoch, [row(1)])
        await task
    await store.aclose()
    await other.aclose()


class Lossy:
    """A way to the server that loses the answer to what was sent after `lose` was set, and then breaks."""

    def __init__(self, server: RedisServer) -> None:
        self.lose = False
        self.num_lost = 0
        self._there = ("127.0.0.1", server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._there)
                self._open += [near, far]
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if is_answer and self.lose:
                    self.lose, self.num_lost = False, self.num_lost + 1
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


@asynccontextmanager
async def lossy_way(server: RedisServer) -> AsyncIterator[tuple[Lossy, RedisStore]]:
    way = Lossy(server)
    store = await RedisStore.open(way.url)
    try:
        yield way, store
    finally:
        await store.aclose()
        way.close()


async def test_a_write_whose_answer_was_lost_is_not_done_twice(server: RedisServer) -> None:
    async with lossy_way(server) as (way, store):
        way.lose = True
        await store.create(JobRecord(id="a", idempotency_key="k"), payment=Payment("x", COST, {"day": COST}))
        way.lose = True
        claimed = await store.take(new_owner(), lease_s=60)
        assert claimed is not None
        assert (claimed.record.id, claimed.epoch, claimed.record.idempotency_key) == ("a", 1, "k")
        for seq in range(0, 6, 2):
            way.lose = True
            await store.append("a", 1, [row(seq), row(seq + 1)])
        way.lose = True
        await store.append("a", 1, [row(6)], state=JobState.SUCCEEDED, result=RESULT)
        assert way.num_lost == 6
        assert await store.read("a") == [row(seq) for seq in range(7)]
        assert (await store.spent("x", "day"))[0] == COST
        store.check_integrity()


async def test_another_write_at_the_same_place_is_refused_though_its_answer_was_lost(server: RedisServer) -> None:
    async with lossy_way(server) as (way, store):
        other = await RedisStore.open(server.url)
        await store.create(JobRecord(id="a"))
        await store.claim("a", new_owner(), lease_s=60)
        await other.append("a", 1, [JournalRow(0, "other", {})])
        way.lose = True
        with pytest.raises(Exception, match="the next row is 1, not 0"):
            await store.append("a", 1, [row(0)])
        assert way.num_lost == 1
        await other.aclose()


async def test_scripts_that_the_server_has_forgotten_are_sent_again(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a"))
    assert server.ask("SCRIPT FLUSH") == b"+OK"
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(store.create(JobRecord(id=f"j{number}")))
    assert len(await store.list_jobs()) == 21
    await store.aclose()


async def test_a_job_that_was_taken_for_a_caller_who_left_is_put_back(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a"))
    server.signal(signal.SIGSTOP)
    task = asyncio.ensure_future(store.take(new_owner(), lease_s=60))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    server.signal(signal.SIGCONT)
    await eventually(lambda: b"2" in server.ask("HGET {ttc:}job:a epoch") or server.ask("ZCARD {ttc:}heads") == b":1")
    claimed = await store.take(new_owner(), lease_s=60)
    assert claimed is not None
    assert (claimed.record.id, claimed.epoch) == ("a", 2)
    store.check_integrity()
    await store.aclose()
