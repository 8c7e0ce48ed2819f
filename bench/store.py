"""How fast stores take appends: ``python -m orchestrator.bench.store`` writes `store.json` and `store.md`."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.store import JobRecord, JournalRow, Store
from orchestrator.stores import MemoryStore, SqliteStore, new_owner

_DATA = {"a": 3, "r": "3.0", "prompt": 120, "tokens": [16, 16, 16, 16], "t": 1.25}
"""Like a progress mark, the most frequent row."""
NUM_JOBS = (1, 16, 256)


async def appends_per_s(store: Store, *, num_jobs: int, seconds: float) -> float:
    """Appends of one row each that were acknowledged per second, over all jobs."""
    epochs: dict[str, int] = {}
    for number in range(num_jobs):
        job_id = f"{num_jobs}-{number}"
        await store.create(JobRecord(id=job_id))
        epochs[job_id] = await store.claim(job_id, new_owner(), lease_s=60)
    start = time.perf_counter()
    end = start + seconds

    async def write_rows(job_id: str) -> int:
        seq = 0
        while time.perf_counter() < end:
            await store.append(job_id, epochs[job_id], [JournalRow(seq, "mark", _DATA)])
            seq += 1
        return seq

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write_rows(job_id)) for job_id in epochs]
    return sum(task.result() for task in tasks) / (time.perf_counter() - start)


async def measure(*, seconds: float) -> dict[str, Any]:  # Any: JSON values
    """Appends per second, by store and number of jobs."""
    facts = machine()
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, Store] = {
            "memory": MemoryStore(),
            "SQLite, survives processes": SqliteStore(Path(folder) / "process.sqlite"),
            "SQLite, survives power cuts": SqliteStore(Path(folder) / "power.sqlite", durability="power"),
        }
        for name, store in stores.items():
            rates[name] = {str(jobs): await appends_per_s(store, num_jobs=jobs, seconds=seconds) for jobs in NUM_JOBS}
            await store.aclose()
    return {"machine": facts, "seconds": seconds, "appends_per_s": rates}


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    rates = result["appends_per_s"]
    lines = [
        "# Stores",
        "",
        "Appends of one row that were acknowledged, per second, by the number of jobs that write at once.",
        "Made by `python -m orchestrator.bench.store`.",
        "",
        *table(
            ("store", *(f"{jobs} jobs" for jobs in NUM_JOBS)),
            [(name, *(f"{row[str(jobs)]:,.0f}" for jobs in NUM_JOBS)) for name, row in rates.items()],
        ),
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    result = asyncio.run(measure(seconds=options.seconds))
    text = page(result)
    write(options.out, "store", result, text)
    print(text)


if __name__ == "__main__":
    main()
