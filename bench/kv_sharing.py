"""What sharing KV saves in a search, and what a cap on KV cells costs: ``python -m orchestrator.bench.kv_sharing``.

The same searches with the same seeds on the lab's models, in turn: with prefixes shared, without (each request reads
its whole prompt), and shared under a cap on cells that binds. Policies are held against REBASE in every arm;
``--policies rebase ets:lambda_b=2 --arms shared capped --name ets`` compares these two alone. Rows of jobs are kept as
they come, so a run that was broken off goes on where it was. Writes `kv_sharing.json` and `kv_sharing.md`, or NAME's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator import Budget, Event, Orchestrator, Result
from orchestrator.bench.kv_sharing_analysis import Job, analysis, page, read_jobs
from orchestrator.bench.lab.model_names import REWARD_MODEL, weights_path
from orchestrator.bench.noisy_checker import noisy_checker
from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.report import PUBLISHED, machine, write
from orchestrator.bench.sets import open_set
from orchestrator.errors import BudgetExhausted, NoAnswer
from orchestrator.registry import names
from orchestrator.workers.llama_cpp import LlamaCppEngine, open_engine

GENERATOR = "small"
POLICIES = ("rebase", "ets", "beam_search")
SETS = ("expression", "countdown", "sudoku6")
ARMS = ("shared", "unshared", "capped")
PROBLEMS_SEED = 20261121
ROWS = Path("build/bench")
BUDGET = Budget(max_output_tokens=1_000_000)
_CELLS = 16384
_SEQUENCES = 16
_BRANCHES = 256


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to run the engines; fields as in `open_engine`."""

    name: str
    context_cells: int
    share_prefixes: bool = True


@dataclass(frozen=True, slots=True)
class Search:
    """What is run in every arm; the policy with its parameters as `read_policy` understands them."""

    problem_set: ProblemSet
    problem: Problem
    seed: int
    policy: str


def arms(cap: int) -> tuple[Arm, ...]:
    """The others are compared with the first."""
    shared, unshared, capped = ARMS
    return Arm(shared, _CELLS), Arm(unshared, _CELLS, share_prefixes=False), Arm(capped, cap)


def read_policy(text: str) -> tuple[str, dict[str, str]]:
    """``ets:lambda_b=2,node_cost=tokens`` as a name and parameters.

    Raises:
        ValueError: There is no such policy, or a parameter has no value.
    """
    name, _, rest = text.partition(":")
    params = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    if name not in names("policy"):
        raise ValueError(text)
    return name, params


@contextlib.asynccontextmanager
async def opened(arm: Arm) -> AsyncIterator[Orchestrator]:
    """An orchestrator on the lab's models; the engines' books are checked at the end."""
    engines: list[LlamaCppEngine] = []
    try:
        for name in (GENERATOR, REWARD_MODEL):
            engine = await open_engine(
                weights_path(name),
                name=name,
                num_threads=1,
                context_cells=arm.context_cells,
                max_sequences=_SEQUENCES,
                max_branches=_BRANCHES,
                share_prefixes=arm.share_prefixes,
            )
            engines.append(engine)
        async with Orchestrator(engines[0], roles={"verifier": engines[1]}) as ttc:
            yield ttc
        for engine in engines:
            await engine.check_integrity()
    finally:
        for engine in engines:
            await engine.aclose()


class Bench:
    """The searches of one run, and those that an earlier one of the same width, cap and rewards has kept.

    Args:
        width: Of each search.
        cap: Cells of each model in the arm that has few.
        auc: Of checkers that give the rewards in place of the reward model; None for the model.
        chosen_arms: Those to run.
        rows: The file of jobs.
    """

    def __init__(self, *, width: int, cap: int, auc: float | None, chosen_arms: Sequence[Arm], rows: Path) -> None:
        self._width = width
        self._cap = cap
        self._auc = auc
        self._verifier = None if auc is None else noisy_checker(auc)
        self._arms = chosen_arms
        self._rows = rows
        self.jobs = [job for job in read_jobs(rows) if (job.width, job.cap, job.auc) == (width, cap, auc)]

    async def run(self, searches: Sequence[Search]) -> None:
        """Runs what there is no row of; the arms of a search come one after another, in an order that rotates."""
        known = {(job.set, job.problem, job.seed, job.policy, job.arm) for job in self.jobs}
        async with contextlib.AsyncExitStack() as stack:
            ready = [(arm, await stack.enter_async_context(opened(arm))) for arm in self._arms]
            for number, search in enumerate(searches):
                of_search = search.problem_set.name, search.problem.id, search.seed, search.policy
                shift = number % len(ready)
                missing = [
                    (arm, ttc) for arm, ttc in ready[shift:] + ready[:shift] if (*of_search, arm.name) not in known
                ]
                self._keep([await self._job(ttc, arm, search) for arm, ttc in missing])

    async def _job(self, ttc: Orchestrator, arm: Arm, search: Search) -> Job:
        problem_set, problem = search.problem_set, search.problem
        name, params = read_policy(search.policy)
        results: list[Result] = []

        def watch(event: Event) -> None:
            if event.kind == "result":
                results.append(event.data["result"])

        start, cpu = time.perf_counter(), time.process_time()
        with contextlib.suppress(NoAnswer, BudgetExhausted):  # it is wrong then, and what it spent is in its result
            await ttc.solve(
                problem.text,
                messages=problem.messages,
                policy=name,
                params={"width": self._width, **params},
                verifier=self._verifier,
                answer=problem_set.answer_kind,
                budget=BUDGET,
                seed=search.seed,
                on_event=watch,
            )
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        return Job(
            set=problem_set.name,
            problem=problem.id,
            seed=search.seed,
            width=self._width,
            cap=self._cap,
            auc=self._auc,
            policy=search.policy,
            arm=arm.name,
            is_correct=problem_set.is_correct(problem, results[-1].text),
            wall_s=wall_s,
            cpu_s=cpu_s,
            usage=results[-1].usage.to_json(),
        )

    def _keep(self, jobs: Sequence[Job]) -> None:
        self._rows.parent.mkdir(parents=True, exist_ok=True)
        with self._rows.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(job)) + "\n" for job in jobs))
        self.jobs += jobs


def searches_of(sets: Sequence[ProblemSet], *, num_seeds: int, policies: Sequence[str]) -> Iterator[Search]:
    """The sets in turn, so that a run that is broken off has some of each."""
    for seed in range(1, 1 + num_seeds):
        for problems in zip(*(problem_set.problems for problem_set in sets), strict=True):
            for problem_set, problem in zip(sets, problems, strict=True):
                for policy in policies:
                    yield Search(problem_set, problem, seed, policy)


def _command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The command line again, as far as it says what is measured."""
    words = ["python", "-m", "orchestrator.bench.kv_sharing"]
    for name, value in vars(options).items():
        if value != parser.get_default(name) and name not in {"rows", "out"}:
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), metavar="NAME[:PARAM=VALUE,...]")
    parser.add_argument(
        "--arms", nargs="+", default=[arm.name for arm in arms(0)], choices=[arm.name for arm in arms(0)]
    )
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="of the problems")
    parser.add_argument("--problems", type=int, default=100, help="of each set")
    parser.add_argument("--seeds", type=int, default=1, help="searches of each problem")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cap", type=int, default=128, help="cells of each model in the arm 'capped'")
    parser.add_argument("--auc", type=float, help="checkers blurred to this AUC give the rewards, and not the model")
    parser.add_argument("--name", default="kv_sharing", help="of the report")
    parser.add_argument("--rows", type=Path, help="jobs; those it holds are not run again; build/bench/NAME.jsonl")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    if options.auc is not None and not 0.5 < options.auc < 1:
        parser.error(f"--auc must be above 0.5 and below 1, not {options.auc:g}")
    for text in options.policies:
        try:
            read_policy(text)
        except ValueError:
            parser.error(f"--policies: {text!r} is no policy with parameters; write for instance ets:lambda_b=2")
    if missing := [str(path) for path in map(weights_path, (GENERATOR, REWARD_MODEL)) if not path.is_file()]:
        print(f"skipped: there is no {', '.join(missing)}; bench/lab/README.md says how to train", file=sys.stderr)
        return
    facts = machine()
    sets = [open_set(spec, count=options.problems, seed=PROBLEMS_SEED, split=options.split) for spec in options.sets]
    chosen = [arm for arm in arms(options.cap) if arm.name in options.arms]
    rows = options.rows or ROWS / f"{options.name}.jsonl"
    bench = Bench(width=options.width, cap=options.cap, auc=options.auc, chosen_arms=chosen, rows=rows)
    asyncio.run(bench.run(list(searches_of(sets, num_seeds=options.seeds, policies=options.policies))))
    result = {
        "machine": facts,
        "command": _command(options, parser),
        "generator": f"lab:{GENERATOR}",
        "rewards": f"lab:{REWARD_MODEL}" if options.auc is None else f"checkers blurred to an AUC of {options.auc:g}",
        "split": options.split,
        "width": options.width,
        "cells": _CELLS,
        "cap": options.cap,
        **analysis(bench.jobs, options.policies, [arm.name for arm in chosen]),
    }
    text = page(result)
    write(options.out, options.name, result, text)
    print(text)


if __name__ == "__main__":
    main()
