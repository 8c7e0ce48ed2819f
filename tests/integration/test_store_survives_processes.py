"""Processes that are killed while they write lose nothing they were told is safe; two that race share out the jobs."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.budget import NOTHING, Amount
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores import SqliteStore, new_owner

WRITER = Path(__file__).with_name("store_writer.py")
pytestmark = pytest.mark.crash


def start(command: str, path: Path, prefix: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WRITER), command, str(path), prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kills", [30, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "jobs.sqlite"
    chance = random.Random(7)
    acknowledged: dict[str, int] = {}
    for life in range(kills):
        process = start("write", path, f"life{life}")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]  # it is well under way
        await asyncio.sleep(chance.random() * 0.06)
        process.kill()
        rest, _ = process.communicate()
        for line in [*lines, *rest.splitlines(keepends=True)]:
            if line.endswith("\n"):
                job_id, seq = line.split()
                acknowledged[job_id] = int(seq)
    store = SqliteStore(path)
    store.check_integrity()
    assert len(acknowledged) > kills
    for job_id, count in acknowledged.items():
        journal = await store.read(job_id)
        assert len(journal) >= count, f"{job_id}: {count} rows were acknowledged, {len(journal)} are there"
        assert [row.seq for row in journal] == list(range(len(journal)))
        epoch = await store.claim(job_id, "elsewhere:1:x", lease_s=1)  # its owner is dead
        assert epoch == 2
    await store.aclose()


async def test_processes_that_race_for_jobs_get_each_job_once(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SqliteStore(path)
    wanted = {f"job{number:03}" for number in range(60)}
    for job_id in wanted:
        await store.create(JobRecord(id=job_id))
    racers = [start("claim", path) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    await asyncio.sleep(0.5)
    won = [racer.communicate("done\n")[0].split() for racer in racers]
    assert sorted(job_id for mine in won for job_id in mine) == sorted(wanted)
    assert [job.epoch for job in await store.list_jobs(limit=100)] == [1] * 60
    await store.aclose()


async def test_processes_that_make_a_store_at_the_same_time_all_get_it(tmp_path: Path) -> None:
    writers = [start("write", tmp_path / "jobs.sqlite", f"p{number}") for number in range(4)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline()
    for writer in writers:
        writer.kill()
        writer.communicate()
    store = SqliteStore(tmp_path / "jobs.sqlite")
    store.check_integrity()
    assert {job.id[:2] for job in await store.list_jobs(limit=100)} == {"p0", "p1", "p2", "p3"}
    await store.aclose()


async def test_processes_that_spend_from_one_account_and_are_killed_never_exceed_its_cap(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = SqliteStore(path)
    chance = random.Random(11)
    processes: list[subprocess.Popen[str]] = []
    acknowledged: list[str] = []
    for life in range(6):
        process = start("spend", path, f"life{life}")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        processes.append(process)
        await asyncio.sleep(chance.random() * 0.06)
        if len(processes) > 2:
            victim = processes.pop(chance.randrange(3))
            victim.kill()
            acknowledged += victim.communicate()[0].split("\n")[:-1]
        for _ in range(10):
            spent, aside = await store.spent("account", "total")
            assert (spent + aside).output_tokens <= 9000
    for process in processes:
        process.kill()
        acknowledged += process.communicate()[0].split("\n")[:-1]
    while (claimed := await store.take(new_owner(), lease_s=60)) is not None:  # of the dead, and what still waits
        rows = [JournalRow(len(await store.read(claimed.record.id)), "final", {})]
        result = {"usage": {"output_tokens": 3, "picodollars": 5 * 10**17 + 1}}
        await store.append(claimed.record.id, claimed.epoch, rows, state=JobState.SUCCEEDED, result=result)
    store.check_integrity()
    jobs = await store.list_jobs(limit=10_000)
    assert len(acknowledged) > 50
    assert set(acknowledged) <= {job.id for job in jobs}
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    cost = Amount(output_tokens=3 * len(jobs), picodollars=(5 * 10**17 + 1) * len(jobs))
    spent, aside = await store.spent("account", "total")
    assert (spent.output_tokens, spent.picodollars) == (cost.output_tokens, cost.picodollars)
    assert aside == NOTHING
    await store.aclose()
