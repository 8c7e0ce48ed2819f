"""Run as a program: writes to a store as fast as it can, and says on its output what was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from orchestrator.budget import Amount
from orchestrator.errors import BudgetExhausted, JobConflict
from orchestrator.store import JobRecord, JobState, JournalRow, Payment
from orchestrator.stores import SqliteStore, new_owner
from orchestrator.usage import Usage

CAP_TOKENS = 9000
"""What the account of ``spend`` may spend."""


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


async def spend_all(path: str, prefix: str) -> None:
    """Creates jobs as long as the account has something left, takes whatever is next, and ends it at half its price."""
    store = SqliteStore(path)
    owner, number = new_owner(), 0
    payment = Payment(
        "account", Amount(output_tokens=6, picodollars=10**18), {"total": Amount(output_tokens=CAP_TOKENS)}
    )
    result = {"usage": Usage(output_tokens=3, picodollars=5 * 10**17 + 1).to_json()}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        with contextlib.suppress(BudgetExhausted):
            await store.create(JobRecord(id=f"{prefix}-{number}", tenant=prefix), payment=payment)
        number += 1
        claimed = await store.take(owner, lease_s=60, most_per_tenant=2)
        if claimed is None:
            await store.wait_for_work(timeout_s=0.2)
            continue
        row = JournalRow(len(await store.read(claimed.record.id)), "final", {})
        await store.append(claimed.record.id, claimed.epoch, [row], state=JobState.SUCCEEDED, result=result)
        sys.stdout.write(f"{claimed.record.id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run({"write": write_all, "claim": claim_all, "spend": spend_all}[sys.argv[1]](sys.argv[2], sys.argv[3]))
