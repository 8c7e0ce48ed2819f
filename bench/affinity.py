"""What sending a tree's calls to the replica that holds it saves: ``python -m orchestrator.bench.affinity``.

A real Ray cluster on this machine, with the lab's generator and reward model in four replicas, deployed once for each
way to route. Searches run in batches on one and then on the other, with the same seeds; then calls of which one tree
makes most. Writes `affinity.json` and `affinity.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import Budget, Event, Orchestrator, Result
from orchestrator.bench.affinity_cluster import BLIND, GENERATOR, OFF, ON, Replicas, deployed, opened
from orchestrator.bench.affinity_page import page
from orchestrator.bench.affinity_skew import NUM_PROBLEMS, Mix, run_mix
from orchestrator.bench.lab.model_names import REWARD_MODEL, weights_path
from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.report import PUBLISHED, machine, write
from orchestrator.bench.sets import open_set
from orchestrator.errors import BudgetExhausted, NoAnswer
from orchestrator.usage import Usage

POLICIES = ("rebase", "ets")
_PROBLEMS_SEED = 20261121
_BUDGET = Budget(max_output_tokens=1_000_000)
_SETS = ("expression", "countdown", "sudoku6")


@dataclass(frozen=True, slots=True)
class Job:
    """One search on one arm, and what it used."""

    problem: str
    policy: str
    arm: str
    batch: int
    is_correct: bool
    wall_s: float
    prompt_tokens: int
    cached_tokens: int
    recomputed_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Searches that ran at once on one arm.

    Attributes:
        wall_s: Until the last was done.
        cpu_s: CPU time of the replicas.
        imbalance: Of the replicas' loads; see `orchestrator.bench.affinity_cluster.Loads`.
    """

    number: int
    policy: str
    arm: str
    wall_s: float
    cpu_s: float
    imbalance: float


Searches = Sequence[tuple[ProblemSet, Problem]]
Opened = dict[str, tuple[Orchestrator, Replicas]]


async def run_batch(
    arm: str, opened_arm: tuple[Orchestrator, Replicas], searches: Searches, *, policy: str, number: int, width: int
) -> tuple[Batch, list[Job]]:
    """Runs searches at once."""
    ttc, replicas = opened_arm
    jobs: list[Job] = []

    async def run(problem_set: ProblemSet, problem: Problem) -> None:
        result, wall_s = await _solved(ttc, problem_set, problem, policy=policy, seed=1 + number, width=width)
        usage: Usage = result.usage
        jobs.append(
            Job(
                f"{problem_set.name}/{problem.id}",
                policy,
                arm,
                number,
                problem_set.is_correct(problem, result.text),
                wall_s,
                usage.prompt_tokens,
                usage.cached_prompt_tokens,
                usage.recomputed_tokens,
                usage.output_tokens,
            )
        )

    start, cpu = time.perf_counter(), replicas.cpu_s()
    async with replicas.watched() as loads, asyncio.TaskGroup() as tasks:
        for problem_set, problem in searches:
            tasks.create_task(run(problem_set, problem))
    wall_s, cpu_s = time.perf_counter() - start, replicas.cpu_s() - cpu
    return Batch(number, policy, arm, wall_s, cpu_s, loads.imbalance), jobs


async def _solved(
    ttc: Orchestrator, problem_set: ProblemSet, problem: Problem, *, policy: str, seed: int, width: int
) -> tuple[Result, float]:
    results: list[Result] = []

    def watch(event: Event) -> None:
        if event.kind == "result":
            results.append(event.data["result"])

    start = time.perf_counter()
    with contextlib.suppress(NoAnswer, BudgetExhausted):  # it is wrong then, and what it spent is in its result
        await ttc.solve(
            problem.text,
            messages=problem.messages,
            policy=policy,
            params={"width": str(width)},
            answer=problem_set.answer_kind,
            budget=_BUDGET,
            seed=seed,
            on_event=watch,
        )
    return results[-1], time.perf_counter() - start


async def run_searches(
    arms: Opened, batches: Sequence[Searches], *, width: int, policies: Sequence[str]
) -> tuple[list[Batch], list[Job]]:
    """All batches with all policies; the arms in turn, in an order that alternates."""
    done: list[Batch] = []
    jobs: list[Job] = []
    names = [ON.name, OFF.name]
    for number, searches in enumerate(batches):
        for place, policy in enumerate(policies):
            for name in names if (number + place) % 2 == 0 else names[::-1]:
                batch, own = await run_batch(name, arms[name], searches, policy=policy, number=number, width=width)
                done.append(batch)
                jobs += own
                print(f"batch {number}, {policy}, {name}: {batch.wall_s:.1f} s", file=sys.stderr)
    return done, jobs


async def run_mixes(arms: Opened, problems: Sequence[Problem], *, rounds: int, num_calls: int) -> dict[str, list[Mix]]:
    """The skewed mix on each arm in turn, so many rounds."""
    mixes: dict[str, list[Mix]] = {name: [] for name in arms}
    names = list(arms)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            ttc, replicas = arms[name]
            mix = await run_mix(
                ttc, replicas, problems, name=f"mix-{number}-{name}", num_calls=num_calls, seed=1 + number
            )
            mixes[name].append(mix)
            print(f"mix {number}, {name}: {mix.wall_s:.1f} s", file=sys.stderr)
    return mixes


async def measure(
    options: argparse.Namespace, fleets: dict[str, Any]
) -> dict[str, Any]:  # Any: fleet files; JSON values
    """All measurements on fleets that are up."""
    sets = [open_set(name, count=max(options.problems, NUM_PROBLEMS), seed=_PROBLEMS_SEED) for name in _SETS]
    searches = [
        (problem_set, problem)
        for problems in zip(*(problem_set.problems[: options.problems] for problem_set in sets), strict=True)
        for problem_set, problem in zip(sets, problems, strict=True)
    ]
    batches = [searches[start : start + options.at_once] for start in range(0, len(searches), options.at_once)]
    async with contextlib.AsyncExitStack() as stack:
        arms = {name: await stack.enter_async_context(opened(fleet)) for name, fleet in fleets.items()}
        for name, arm in arms.items():  # what is slow the first time only
            await run_batch(name, arm, searches[:2], policy=POLICIES[0], number=0, width=options.width)
        done, jobs = await run_searches(arms, batches, width=options.width, policies=POLICIES)
        mixes = await run_mixes(arms, sets[0].problems, rounds=options.rounds, num_calls=options.calls)
        counters = {name: await replicas.counters() for name, (_, replicas) in arms.items()}
    return {
        "batches": [asdict(batch) for batch in done],
        "jobs": [asdict(job) for job in jobs],
        "mixes": {name: [asdict(mix) for mix in own] for name, own in mixes.items()},
        "counters": {name: [each.to_json() for each in own] for name, own in counters.items()},
    }


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--problems", type=int, default=6, help="of each of three sets")
    parser.add_argument("--at-once", type=int, default=3, help="searches in a batch")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="of the skewed mix")
    parser.add_argument("--calls", type=int, default=200, help="in a round")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    if missing := [str(path) for path in map(weights_path, (GENERATOR, REWARD_MODEL)) if not path.is_file()]:
        print(f"skipped: there is no {', '.join(missing)}; bench/lab/README.md says how to train", file=sys.stderr)
        return
    facts = machine()
    words = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(options).items()
        if name != "out" and value != parser.get_default(name)
    ]
    with deployed((ON, OFF, BLIND), num_replicas=options.replicas) as fleets:
        found = asyncio.run(measure(options, fleets))
    result = {
        "machine": facts,
        "command": shlex.join(["python", "-m", "orchestrator.bench.affinity"]) + "".join(f" {word}" for word in words),
        **{name: getattr(options, name) for name in ("replicas", "problems", "at_once", "width", "rounds", "calls")},
        **found,
    }
    text = page(result)
    write(options.out, "affinity", result, text)
    print(text)


if __name__ == "__main__":
    main()
