"""Jobs on a Ray cluster whose replicas and nodes are killed at random: ``python -m orchestrator.bench.ray_chaos``.

A scripted model that is right or wrong by its seed alone, so what a job finds without any death is known. Each job has
to end, with that answer, and what it paid has to be what is in its tree and what was lost. Writes `ray_chaos.json` and
`ray_chaos.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import Budget, Orchestrator
from orchestrator.bench.ray import NAMESPACE, deployed, settings_for
from orchestrator.bench.ray_nodes import Nodes
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.engine import Engine
from orchestrator.fleet_file import FleetFile
from orchestrator.fleet_file.member import as_member
from orchestrator.models import open_model

Json = dict[str, Any]  # Any: JSON values

MODEL = "scripted:arithmetic,token_s=0.04"
POLICIES: tuple[tuple[str, Json], ...] = (
    ("self_consistency", {"n": 4}),
    ("adaptive_consistency", {"max_samples": 6}),
    ("single", {}),
)
NUM_REPLICAS = 3
_AT_ONCE = 12
_NODES = (2, 2, 2)
_CALM_S = (3.0, 8.0)
"""Between one death and the next."""
_NODE_SHARE = 0.3
"""So many of the deaths are those of a node."""


@dataclass(frozen=True, slots=True)
class Job:
    """What became of a job.

    Attributes:
        is_same: Whether it found what it finds without deaths.
        paid_tokens: Output tokens in its usage.
        tree_tokens: Output tokens in its tree.
        lost_tokens: Of those paid, what was generated and never read.
    """

    policy: str
    state: str
    is_same: bool
    paid_tokens: int
    tree_tokens: int
    lost_tokens: int
    wall_s: float
    error: str = ""

    @property
    def is_reconciled(self) -> bool:
        """Whether what was paid is there, or was lost."""
        return self.paid_tokens == self.tree_tokens + self.lost_tokens


async def run_job(ttc: Orchestrator, number: int, expected: dict[int, str | None]) -> Job:
    """Runs one job; its text and seed are given by its number."""
    policy, params = POLICIES[number % len(POLICIES)]
    begun = time.perf_counter()
    events: list[Any] = []
    result = None
    error = ""
    try:
        result = await ttc.solve(
            f"What is {number} + 4 * 2 - {number % 7}?",
            policy=policy,
            params=params,
            budget=Budget(max_output_tokens=20_000),
            seed=number,
            on_event=events.append,
        )
    except Exception as raised:  # noqa: BLE001  # a row of the report
        error = f"{type(raised).__name__}: {raised}"
        ended = [event for event in events if event.kind == "result"]
        result = ended[-1].data["result"] if ended else None
    if result is None:
        return Job(policy, "no result", False, 0, 0, 0, time.perf_counter() - begun, error)
    return Job(
        policy,
        result.state.value,
        result.text == expected.get(number, result.text),
        result.usage.output_tokens,
        sum(node.output_tokens for node in result.tree),
        result.usage.lost_tokens,
        time.perf_counter() - begun,
        error,
    )


async def run_jobs(engine: Engine, count: int, expected: dict[int, str | None]) -> list[Job]:
    """All jobs, so many at once."""
    turns = asyncio.Semaphore(_AT_ONCE)
    async with Orchestrator(engine, store="memory:") as ttc:

        async def run(number: int) -> Job:
            async with turns:
                return await run_job(ttc, number, expected)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(run(number)) for number in range(count)]
    return [task.result() for task in running]


async def answers(count: int) -> dict[int, str | None]:
    """What the jobs find in process."""
    found: dict[int, str | None] = {}
    engine = as_member(await open_model("scripted:arithmetic", settings=settings_for("", isolated=False)), name="small")
    async with Orchestrator(engine, store="memory:") as ttc:
        for number in range(count):
            policy, params = POLICIES[number % len(POLICIES)]
            text = f"What is {number} + 4 * 2 - {number % 7}?"
            result = await ttc.solve(
                text, policy=policy, params=params, budget=Budget(max_output_tokens=20_000), seed=number
            )
            found[number] = result.text
    return found


async def kill_at_random(nodes: Nodes, engine: Any, deaths: Counter[str], rng: random.Random) -> None:
    """Kills a replica now and then, and a node now and again, which another one follows; any: a `RayEngine`."""
    others = list(range(1, len(_NODES)))
    while True:
        await asyncio.sleep(rng.uniform(*_CALM_S))
        if rng.random() < _NODE_SHARE:
            await asyncio.to_thread(nodes.kill, others.pop(rng.randrange(len(others))))
            deaths["nodes"] += 1
            others.append(await asyncio.to_thread(nodes.add, _NODES[0]))
            continue
        present = await engine.replicas()
        if present:
            with contextlib.suppress(ProcessLookupError):
                os.kill(present[rng.choice(sorted(present))], signal.SIGKILL)
                deaths["replicas"] += 1


async def measure(*, count: int, seed: int) -> Json:
    """The jobs, with the deaths."""
    from orchestrator.workers.ray.joining import joined

    facts, expected = machine(), await answers(count)
    entry = {"model": MODEL, "replicas": NUM_REPLICAS, "cpus": 1, "max_ongoing": 16}
    fleet = FleetFile.model_validate(
        {"models": {"small": entry}, "cluster": {"ray": "local", "namespace": NAMESPACE}},
    )
    deaths: Counter[str] = Counter()
    with Nodes(*_NODES, namespace=NAMESPACE) as nodes, joined(nodes.address, namespace=NAMESPACE):
        async with deployed(fleet, "small"):
            engine = await open_model("ray:small", settings=settings_for(nodes.address, isolated=False))
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                killer = tasks.create_task(kill_at_random(nodes, engine, deaths, random.Random(seed)))
                jobs = await run_jobs(engine, count, expected)
                killer.cancel()
            wall_s = time.perf_counter() - begun
            await engine.aclose()
    return {
        "machine": facts,
        "seed": seed,
        "wall_s": wall_s,
        "deaths": dict(deaths),
        "jobs": [asdict(job) for job in jobs],
    }


def _sums(jobs: list[Job]) -> tuple[int, ...]:
    return (
        len(jobs),
        sum(job.state == "succeeded" for job in jobs),
        sum(job.is_same for job in jobs),
        sum(job.is_reconciled for job in jobs),
        sum(job.paid_tokens for job in jobs),
        sum(job.lost_tokens for job in jobs),
    )


def page(result: Json) -> str:
    """The figures as Markdown."""
    jobs = [Job(**row) for row in result["jobs"]]
    deaths = result["deaths"]
    policies = dict.fromkeys(job.policy for job in jobs)
    rows = [(policy, *_sums([job for job in jobs if job.policy == policy])) for policy in policies]
    lines = [
        "# Ray: jobs whose replicas and nodes are killed",
        "",
        f"{len(jobs)} jobs, {_AT_ONCE} at once, on a cluster of {len(_NODES)} nodes with {NUM_REPLICAS} replicas of a",
        f"scripted model; {deaths.get('replicas', 0)} times a replica was killed and {deaths.get('nodes', 0)} times a",
        f"whole node (SIGKILL, at random, seed {result['seed']}), in {result['wall_s']:.0f} s. Made by",
        "`python -m orchestrator.bench.ray_chaos`.",
        "",
        *table(
            (
                "policy",
                "jobs",
                "succeeded",
                "with the answer they find without deaths",
                "whose paid tokens are those of their tree and those lost",
                "output tokens paid",
                "of them lost",
            ),
            [*rows, ("all", *_sums(jobs))],
        ),
        "",
        *(f"- {job.policy}: {job.error}" for job in jobs if job.error),
        *([""] if any(job.error for job in jobs) else []),
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the deaths")
    parser.add_argument("--out", type=Path, default=PUBLISHED, help="folder of the two files")
    options = parser.parse_args()
    result = asyncio.run(measure(count=options.jobs, seed=options.seed))
    write(options.out, "ray_chaos", result, page(result))


if __name__ == "__main__":
    main()
