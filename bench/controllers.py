"""What another controller adds: ``python -m orchestrator.bench.controllers``.

A real redis-server holds a queue; one, two and three processes of ``ttc controller`` take jobs from it, each with a
scripted model, which waits as long as a real one would and computes next to nothing. Two loads: jobs that mostly wait,
so that a controller ends as many as it may have at once, and jobs that mostly compute, so that cores are the limit.
Writes `controllers.json` and `controllers.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.bench.report import PUBLISHED, cell, machine, machine_line, spread, table, write
from orchestrator.bench.soaking.processes import TTC, Program, environment, redis_server, running
from orchestrator.in_process import Orchestrator
from orchestrator.store import JobRecord
from orchestrator.stores.redis import RedisStore

_PROBLEM = "What is 17 + 4 * 6 - 3?"
_POLICY, _PARAMS = "self_consistency", {"n": 4}
_CUT = 0.2
"""Of the jobs in the order of their ends, the first and the last of this share are left out: then some of the processes
had no work yet, or no more."""
_CALM_CORES = 0.5
"""If others keep more cores busy, the page says so."""
_MAX_S = 300.0
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What controllers are given to do.

    Attributes:
        name: For the page.
        model: The scripted model.
        concurrency: Jobs that a controller has under way at once.
        num_jobs: How many there are for each controller.
    """

    name: str
    model: str
    concurrency: int
    num_jobs: int


LOADS = (
    Load(name="waiting", model="scripted:arithmetic,token_s=0.02", concurrency=8, num_jobs=100),
    Load(name="computing", model="scripted:arithmetic", concurrency=32, num_jobs=500),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one run.

    Attributes:
        jobs_per_s: Ended per second, between the first and the last fifth of them.
        shares: Of the jobs, by controller, smallest first.
        controller_cpu_s: CPU time of all controllers, while the jobs ran.
        redis_cpu_s: CPU time of redis-server meanwhile.
        busy_cores: CPU time of all of them per second.
        other_cores: CPU time per second of whatever else ran on the machine, this benchmark included.
        num_jobs: How many ended.
    """

    jobs_per_s: float
    shares: tuple[float, ...]
    controller_cpu_s: float
    redis_cpu_s: float
    busy_cores: float
    other_cores: float
    num_jobs: int


async def measure_once(load: Load, num_controllers: int, folder: Path) -> Measured:
    """One run with a store of its own."""
    redis, url = redis_server(folder)
    env = environment(folder)
    words = ["controller", "--store", url, "--model", load.model, "--concurrency", str(load.concurrency)]
    controllers = [
        Program(f"controller-{number}", [*TTC, *words], folder=folder, env=env, ready="running jobs of")
        for number in range(num_controllers)
    ]
    with ExitStack() as stack:
        stack.enter_context(running(redis, *controllers))
        store = await RedisStore.open(url)
        try:
            wanted = await _records(load.num_jobs * num_controllers)
            before = [cpu_s(program.pid) for program in (redis, *controllers)]
            start, machine_before = time.perf_counter(), machine_cpu_s()
            async with asyncio.TaskGroup() as tasks:
                for record in wanted:
                    tasks.create_task(store.create(record))
            ended = await _all_ended(store, [record.id for record in wanted])
            seconds, machine_spent = time.perf_counter() - start, machine_cpu_s() - machine_before
            spent = [cpu_s(program.pid) - was for program, was in zip((redis, *controllers), before, strict=True)]
            for record in ended:
                rows = await store.read(record.id)
                assert [row.kind for row in rows].count("final") == 1, f"job {record.id} has not ended once"
        finally:
            await store.aclose()
    return _measured(ended, spent, seconds=seconds, machine_spent=machine_spent)


def _measured(ended: Sequence[JobRecord], spent: Sequence[float], *, seconds: float, machine_spent: float) -> Measured:
    times = sorted(record.updated_at for record in ended)
    first, last = int(_CUT * len(times)), int((1 - _CUT) * len(times)) - 1
    owners = Counter(record.owner for record in ended)
    return Measured(
        jobs_per_s=(last - first) / (times[last] - times[first]),
        shares=tuple(sorted(count / len(ended) for count in owners.values())),
        controller_cpu_s=sum(spent[1:]),
        redis_cpu_s=spent[0],
        busy_cores=sum(spent) / seconds,
        other_cores=max(machine_spent - sum(spent), 0.0) / seconds,
        num_jobs=len(ended),
    )


async def _records(count: int) -> list[JobRecord]:
    """Jobs for the queue."""
    records = []
    async with Orchestrator("scripted:arithmetic") as here:
        for seed in range(count):
            record = here.new_record(here.check(_PROBLEM, policy=_POLICY, params=_PARAMS, seed=seed))
            records.append(replace(record, owner=None))
    return records


async def _all_ended(store: RedisStore, ids: Sequence[str]) -> list[JobRecord]:
    ended: dict[str, JobRecord] = {}
    async with asyncio.timeout(_MAX_S):
        while len(ended) < len(ids):
            await asyncio.sleep(_LOOK_S)
            for job_id in ids:
                if job_id in ended:
                    continue
                record = await store.get(job_id)
                if not record.state.is_terminal:
                    break  # most end in the order they were made; what is behind is looked at next time
                ended[job_id] = record
    states = Counter(record.state.value for record in ended.values())
    assert set(states) == {"succeeded"}, dict(states)
    return list(ended.values())


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process (Linux; proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def machine_cpu_s() -> float:
    """CPU time that all processes of the machine have had (Linux; proc(5), stat: all but idle and iowait)."""
    fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


async def measure(*, rounds: int, most: int, scale: float) -> dict[str, Any]:  # Any: JSON values
    """All loads with each number of controllers, in turns."""
    facts = machine()
    runs: dict[str, dict[str, list[Measured]]] = {}
    for load in LOADS:
        sized = Load(**{**asdict(load), "num_jobs": max(int(load.num_jobs * scale), load.concurrency)})
        by_count = runs.setdefault(load.name, {str(count): [] for count in range(1, most + 1)})
        for number in range(rounds):
            for count in range(1, most + 1):
                with tempfile.TemporaryDirectory(prefix="ttc-controllers-") as folder:
                    found = await measure_once(sized, count, Path(folder))
                by_count[str(count)].append(found)
                print(
                    f"{load.name}, round {number + 1}, {count} controllers: {found.jobs_per_s:.1f} jobs/s", flush=True
                )
    return {
        "machine": facts,
        "rounds": rounds,
        "loads": {load.name: asdict(load) for load in LOADS},
        "runs": {name: {count: _summary(found, by["1"]) for count, found in by.items()} for name, by in runs.items()},
    }


def _summary(found: Sequence[Measured], alone: Sequence[Measured]) -> dict[str, Any]:  # Any: JSON values
    """Of the rounds with one number of controllers; gains are to one controller in the same round."""
    return {
        "jobs_per_s": spread([one.jobs_per_s for one in found]),
        "gain": spread([one.jobs_per_s / base.jobs_per_s for one, base in zip(found, alone, strict=True)]),
        "smallest_share": spread([one.shares[0] for one in found]),
        "controller_ms_per_job": spread([1e3 * one.controller_cpu_s / one.num_jobs for one in found]),
        "redis_ms_per_job": spread([1e3 * one.redis_cpu_s / one.num_jobs for one in found]),
        "busy_cores": spread([one.busy_cores for one in found]),
        "other_cores": spread([one.other_cores for one in found]),
        "rounds": [asdict(one) for one in found],
    }


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    loads, runs = result["loads"], result["runs"]
    cores = int(result["machine"]["cores"])
    head = (
        "controllers",
        "jobs/s",
        "times one",
        "smallest share",
        "CPU ms per job",
        "of redis-server",
        "busy cores",
        "of others",
    )
    lines = [
        "# More controllers",
        "",
        f"Jobs per second with one, two and three processes of `ttc controller` on one queue in a real redis-server, "
        f"which syncs every write. Each job is `{_POLICY}` of {_PARAMS['n']} samples. Median (least to most) of "
        f"{result['rounds']} rounds in which the numbers took turns; *times one* is within a round. Every job ended "
        "once. Made by `python -m orchestrator.bench.controllers`.",
    ]
    for name, by_count in runs.items():
        load = loads[name]
        lines += [
            "",
            f"## Jobs that are {name}",
            "",
            f"`{load['model']}`, {load['concurrency']} jobs at once in each controller.",
            "",
            *table(
                head,
                [
                    (
                        count,
                        cell(found["jobs_per_s"], 1),
                        cell(found["gain"]),
                        cell(found["smallest_share"]),
                        cell(found["controller_ms_per_job"], 1),
                        cell(found["redis_ms_per_job"], 1),
                        cell(found["busy_cores"]),
                        cell(found["other_cores"]),
                    )
                    for count, found in by_count.items()
                ],
            ),
        ]
    lines += [
        "",
        "## What it means",
        "",
        *_meaning(runs, cores=cores),
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def _meaning(runs: dict[str, Any], *, cores: int) -> list[str]:  # Any: JSON values
    waiting, computing = runs["waiting"], runs["computing"]
    most = max(waiting, key=int)
    others = max(found["other_cores"]["median"] for by_count in runs.values() for found in by_count.values())
    gains = [f"{by[count]['gain']['median']:.2f}" for by in (waiting, computing) for count in ("2", most)]
    each = computing["1"]
    per_core = 1e3 / (each["controller_ms_per_job"]["median"] + each["redis_ms_per_job"]["median"])
    controller_ms, redis_ms = cell(each["controller_ms_per_job"], 1), cell(each["redis_ms_per_job"], 1)
    lines = [
        f"- Where jobs wait for a model, two controllers end {gains[0]} times as many jobs as one, {most} end "
        f"{gains[1]} times as many. One is limited by how many jobs it may have under way; they share nothing but the "
        "store.",
        f"- Where jobs compute, it is {gains[2]} and {gains[3]} times: cores are the limit, and this machine has "
        f"{cores}, for the controllers, redis-server and this benchmark together.",
        f"- A job of {_PARAMS['n']} samples costs {controller_ms} ms of a core in the controller and {redis_ms} ms in "
        f"redis-server: at most {per_core:.0f} such jobs per second and core, and one redis-server has room for some "
        "controllers that keep a core busy each before it is the limit.",
    ]
    if others > _CALM_CORES:
        lines.append(
            f"- The machine was not this benchmark's: other processes kept up to {others:.1f} of its {cores} cores "
            "busy. Where cores are short, a further process gains a further share of them from the others, and jobs "
            "that would wait for their model wait for a core. The CPU time of a job is not affected by that; the jobs "
            "per second, and what a controller adds to them, are."
        )
    return lines


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, default=3, help="controllers")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of jobs")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    result = asyncio.run(measure(rounds=options.rounds, most=options.most, scale=options.scale))
    text = page(result)
    write(options.out, "controllers", result, text)
    print(text)


if __name__ == "__main__":
    main()
