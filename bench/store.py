"""How fast stores take appends: ``python -m orchestrator.bench.store`` prints appends per second by concurrent jobs."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from orchestrator.store import JobRecord, JournalRow, Store
from orchestrator.stores import MemoryStore, SqliteStore, new_owner

_DATA = {"a": 3, "r": "3.0", "prompt": 120, "tokens": [16, 16, 16, 16], "t": 1.25}
"""Like a progress mark, the most frequent row."""


async def appends_per_s(store: Store, *, num_jobs: int, seconds: float) -> float:
    """Appends of one row each that were acknowledged per second, over all jobs."""
    epochs: dict[str, int] = {}
    for number in range(num_jobs):
        job_id = f"{num_jobs}-{number}"
        await store.create(JobRecord(id=job_id))
        epochs[job_id] = await store.claim(job_id, new_owner(), lease_s=60)
    start = time.perf_counter()
    end = start + seconds

    async def write(job_id: str) -> int:
        seq = 0
        while time.perf_counter() < end:
            await store.append(job_id, epochs[job_id], [JournalRow(seq, "mark", _DATA)])
            seq += 1
        return seq

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(job_id)) for job_id in epochs]
    return sum(task.result() for task in tasks) / (time.perf_counter() - start)


async def measure(*, seconds: float = 1.0) -> None:
    """Prints one line per store."""
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, Store] = {
            "memory": MemoryStore(),
            "sqlite, survives processes": SqliteStore(Path(folder) / "process.sqlite"),
            "sqlite, survives power cuts": SqliteStore(Path(folder) / "power.sqlite", durability="power"),
        }
        print(f"{'appends/s':30}" + "".join(f"{num_jobs:>8} jobs" for num_jobs in (1, 16, 256)))
        for name, store in stores.items():
            rates = [await appends_per_s(store, num_jobs=num_jobs, seconds=seconds) for num_jobs in (1, 16, 256)]
            print(f"{name:30}" + "".join(f"{rate:>13,.0f}" for rate in rates))
            await store.aclose()


if __name__ == "__main__":
    asyncio.run(measure())
