"""Processes that share a Redis store: each job is given once, and who lost its lease cannot write."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import JobRecord, JobState
from orchestrator.stores import new_owner
from orchestrator.stores.redis import RedisStore

from .redis_server import RedisServer

WORKER = Path(__file__).with_name("redis_worker.py")
pytestmark = [pytest.mark.server, pytest.mark.crash]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def start(command: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), command, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def heard(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def told(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


async def test_two_processes_that_take_the_same_500_jobs_are_given_each_once(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    wanted = [f"job{number:03}" for number in range(500)]
    async with asyncio.TaskGroup() as group:
        for job_id in wanted:
            group.create_task(store.create(JobRecord(id=job_id)))
    takers = [start("take", server.url) for _ in range(2)]
    assert [heard(taker) for taker in takers] == [["ready"]] * 2
    for taker in takers:
        told(taker, "go")
    got = [taker.communicate("done\n")[0].split() for taker in takers]
    assert sorted(got[0] + got[1]) == wanted
    assert all(len(mine) > 50 for mine in got), "both had their part"
    assert [job.epoch for job in await store.list_jobs(limit=1000)] == [1] * 500
    store.check_integrity()
    await store.aclose()


async def test_an_owner_that_was_stopped_past_its_lease_is_refused_when_it_goes_on(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a"))
    owner = start("hold", server.url)
    try:
        assert heard(owner)[0] == "holds"
        owner.send_signal(signal.SIGSTOP)
        assert await store.take(new_owner(), lease_s=60) is None, "its lease lasts"
        await asyncio.sleep(0.6)
        claimed = await store.take(new_owner(), lease_s=60)
        assert claimed is not None
        assert (claimed.record.id, claimed.epoch) == ("a", 2)
        owner.send_signal(signal.SIGCONT)
        told(owner, "write")
        assert heard(owner) == ["refused", "2"]
        assert [row.kind for row in await store.read("a")] == ["mark"]
    finally:
        owner.kill()
        owner.communicate()
    await store.aclose()


async def test_an_owner_that_was_stopped_past_its_lease_goes_on_if_nobody_took_its_job(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a", tenant="t"))
    owner = start("hold", server.url)
    try:
        assert heard(owner)[0] == "holds"
        owner.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.6)
        await store.create(JobRecord(id="b", priority=1, tenant="t"))
        other = await store.take(new_owner(), lease_s=60, most_per_tenant=1)
        assert other is not None
        assert other.record.id == "b", "a is in the queue again and does not count"
        owner.send_signal(signal.SIGCONT)
        told(owner, "write")
        assert heard(owner) == ["written"]
        store.check_integrity()
        assert await store.take(new_owner(), lease_s=60) is None, "it has its lease back"
    finally:
        owner.kill()
        owner.communicate()
    claimed = await store.take(new_owner(), lease_s=60)
    assert claimed is not None
    assert (claimed.record.id, claimed.epoch) == ("a", 2), "its process is dead"
    assert (await store.count_jobs())[JobState.RUNNING] == 2
    store.check_integrity()
    await store.aclose()
