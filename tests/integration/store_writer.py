"""Run as a program: appends to jobs in a store as fast as it can and says on its output what was acknowledged."""

from __future__ import annotations

import asyncio
import sys

from orchestrator.errors import JobConflict
from orchestrator.store import JobRecord, JournalRow
from orchestrator.stores import SqliteStore, new_owner


async def write(store: SqliteStore, job_id: str) -> None:
    await store.create(JobRecord(id=job_id))
    epoch = await store.claim(job_id, new_owner(), lease_s=60)
    seq = 0
    while True:
        count = 1 + seq % 3
        await store.append(job_id, epoch, [JournalRow(seq + place, "mark", {"n": seq}) for place in range(count)])
        seq += count
        sys.stdout.write(f"{job_id} {seq}\n")
        sys.stdout.flush()


async def write_all(path: str, prefix: str) -> None:
    store = SqliteStore(path)
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(write(store, f"{prefix}-{number}"))


async def claim_all(path: str, _prefix: str) -> None:
    """Claims each job that nobody has, and says which it got."""
    store = SqliteStore(path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    owner = new_owner()
    for job in await store.list_jobs(limit=1000):
        try:
            await store.claim(job.id, owner, lease_s=60)
        except JobConflict:
            continue
        sys.stdout.write(f"{job.id}\n")
    sys.stdout.flush()
    sys.stdin.readline()  # alive until everyone is done
    await store.aclose()


if __name__ == "__main__":
    asyncio.run({"write": write_all, "claim": claim_all}[sys.argv[1]](sys.argv[2], sys.argv[3]))
