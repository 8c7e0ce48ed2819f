"""Run as a program: takes jobs from a Redis store, and says on its output what it got."""

from __future__ import annotations

import asyncio
import os
import sys

from orchestrator.errors import LeaseLost
from orchestrator.store import JobRecord, JournalRow
from orchestrator.stores import new_owner
from orchestrator.stores.redis import RedisStore


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def hear() -> str:
    return sys.stdin.readline().strip()


async def take_all(url: str) -> None:
    """Takes jobs eight at a time until there are none, says which and ends them."""
    store = await RedisStore.open(url)
    say("ready")
    hear()
    owner = new_owner()

    async def take() -> None:
        while (claimed := await store.take(owner, lease_s=60)) is not None:
            await store.append(claimed.record.id, claimed.epoch, [JournalRow(0, "taken", {"by": owner})])
            say(claimed.record.id)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(take())
    hear()
    await store.aclose()


async def hold(url: str) -> None:
    """Takes one job with a short lease, and writes to it when it is told to."""
    store = await RedisStore.open(url)
    claimed = await store.take(new_owner(), lease_s=0.5)
    assert claimed is not None
    await store.append(claimed.record.id, claimed.epoch, [JournalRow(0, "mark", {})])
    say("holds", os.getpid())
    while hear():
        try:
            await store.append(claimed.record.id, claimed.epoch, [JournalRow(1, "late", {})])
            say("written")
        except LeaseLost as error:
            say("refused", error.fields()["current_epoch"])
    await store.aclose()


async def write(url: str) -> None:
    """Appends to jobs as fast as it can and says what was acknowledged."""
    store = await RedisStore.open(url)

    async def append(job_id: str) -> None:
        await store.create(JobRecord(id=job_id))
        epoch = await store.claim(job_id, new_owner(), lease_s=60)
        seq = 0
        while True:
            count = 1 + seq % 3
            await store.append(job_id, epoch, [JournalRow(seq + place, "mark", {"n": seq}) for place in range(count)])
            seq += count
            say(job_id, seq)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(append(f"{os.getpid()}-{number}"))


if __name__ == "__main__":
    asyncio.run({"take": take_all, "hold": hold, "write": write}[sys.argv[1]](sys.argv[2]))
