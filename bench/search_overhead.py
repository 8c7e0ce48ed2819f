"""What our own code costs in a tree search, by width: ``python -m orchestrator.bench.search_overhead``.

ETS is run on live models. Its journal says how long each action took; the event loop's thread counts its own CPU time,
which is that of policy, controller, journal and the engines' Python side. Programs and clusterings are computed once
more in this process, to count their CPU time. Writes `search_overhead.json` and `search_overhead.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import Answer, Budget, Orchestrator, PolicyContext, Query, policy
from orchestrator.actions import Compute
from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.sets import open_set
from orchestrator.isolation import KillablePool, importable_name
from orchestrator.policies.search.clustering import cluster_labels, packed
from orchestrator.policies.search.selection_program import SelectionProgram, chosen_candidates
from orchestrator.policy import Policy
from orchestrator.store import JournalRow

WIDTHS = (16, 64, 256)
LAMBDA_D = {16: 1.5, 64: 1.4, 256: 1.45}
"""As the authors of ETS tuned it."""
SETS = ("expression@10", "sudoku6@7")
BUDGET = Budget(max_output_tokens=1_000_000)
MODELS = {"small": "lab:small", "verifier": "lab:prm"}
A_PROGRAM = SelectionProgram(
    branch_parents=[-1, 0, 0],
    branch_costs=[0.1, 0.3, 0.3],
    parents=[1, 1, 2, 2],
    gains=[-0.02, -0.02, -0.01, -0.02],
    clusters=[0, 1, 0, 1],
    cluster_gain=0.5,
)
"""Two branches that cover the same two clusters: it takes the solver to choose one."""
_FUNCTIONS: dict[str, Callable[..., Any]] = {  # Any: JSON values
    str(importable_name(function)): function for function in (chosen_candidates, cluster_labels)
}
_PROGRAM, _CLUSTERING = _FUNCTIONS
_KINDS = {"Expand": "generation", "Score": "rewards", "Embed": "embedding", "Release": "release"}
_NAMES = {_PROGRAM: "program", _CLUSTERING: "clustering"}


@dataclass(slots=True)
class Costs:
    """Sums over the jobs of one width.

    Attributes:
        wall_s: By what was waited for: generation, rewards, embedding, program, clustering, release, other.
        loop_cpu_s: CPU time of the event loop's thread.
        cpu_s: Of a program or clustering, computed in this process.
        calls: Programs and clusterings.
        num_settled: Programs that needed no solver.
    """

    num_jobs: int = 0
    num_nodes: int = 0
    num_levels: int = 0
    wall_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    loop_cpu_s: float = 0.0
    cpu_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    calls: Counter[str] = field(default_factory=Counter)
    num_settled: int = 0

    def count(self, rows: Sequence[JournalRow]) -> None:
        """Adds the actions of one job."""
        before = 0.0
        for row in rows:
            if row.kind != "done":
                continue
            action, now = row.data["action"], row.data["t"]
            kind = _NAMES.get(action.get("fn", ""), _KINDS.get(action["type"], "other"))
            self.wall_s[kind] += now - before
            self.calls[kind] += 1
            before = now
            if action["type"] == "Compute":
                self._repeat(action["fn"], action["args"])

    def _repeat(self, name: str, args: list[Any]) -> None:  # Any: JSON values
        start = time.thread_time()
        _FUNCTIONS[name](*args)
        self.cpu_s[_NAMES[name]].append(time.thread_time() - start)
        if name == _PROGRAM:
            self.num_settled += len(SelectionProgram(**args[0]).tree().reduced(is_empty_allowed=True)) == 1

    def summary(self) -> dict[str, Any]:  # Any: JSON values
        """Milliseconds per node, and our own share of generation."""
        per_node = {kind: 1e3 * seconds / self.num_nodes for kind, seconds in self.wall_s.items()}
        own = {
            "program": per_node.get("program", 0.0),
            "clustering": per_node.get("clustering", 0.0),
            "event_loop": 1e3 * self.loop_cpu_s / self.num_nodes,
        }
        return {
            "jobs": self.num_jobs,
            "levels": self.num_levels,
            "nodes": self.num_nodes,
            "wall_ms_per_node": per_node,
            "own_ms_per_node": own,
            "own_share_of_generation": sum(own.values()) / per_node["generation"],
            "cpu_ms_per_call": {kind: 1e3 * statistics.fmean(values) for kind, values in self.cpu_s.items()},
            "most_cpu_ms_of_a_call": {kind: 1e3 * max(values) for kind, values in self.cpu_s.items()},
            "calls": dict(self.calls),
            "settled_without_solver": self.num_settled / max(1, self.calls["program"]),
        }


@policy("bench_first_computations", source="this benchmark")
def first_computations(query: Query, ctx: PolicyContext[Any]) -> Policy:  # noqa: ARG001  # the protocol of policies
    """Starts the worker and loads SciPy in it."""
    yield Compute(chosen_candidates, (A_PROGRAM.to_json(), 500))
    yield Compute(cluster_labels, (packed(np.eye(3, dtype=np.float32)), 3, 0.05))
    return Answer("11")


async def costs_of(ttc: Orchestrator, sets: Sequence[ProblemSet], width: int) -> Costs:
    """Runs every problem once, after a job that opens models and processes and does not count."""
    costs = Costs()
    await ttc.solve("Start.", policy=first_computations)
    jobs = [(problems, problem) for problems in sets for problem in problems.problems]
    for number, (problems, problem) in enumerate([jobs[0], *jobs]):
        loop_cpu = time.thread_time()
        job_id, num_nodes = await _solve(ttc, problems, problem, width=width, seed=number)
        loop_cpu = time.thread_time() - loop_cpu
        if number == 0:
            continue
        rows = await ttc.store.read(job_id)
        costs.num_jobs += 1
        costs.num_nodes += num_nodes
        costs.loop_cpu_s += loop_cpu
        costs.count(rows)
    costs.num_levels = costs.calls["generation"]
    return costs


async def _solve(
    ttc: Orchestrator, problems: ProblemSet, problem: Problem, *, width: int, seed: int
) -> tuple[str, int]:
    result = await ttc.solve(
        problem.text,
        messages=problem.messages,
        policy="ets",
        params={"width": width, "lambda_d": LAMBDA_D.get(width, 1.5)},
        answer=problems.answer_kind,
        budget=BUDGET,
        seed=seed,
    )
    return result.job_id, len(result.tree)


async def first_call_s() -> dict[str, float]:
    """Seconds of the first program of a server's life, which starts a process and loads SciPy, and of the next."""
    pool = KillablePool()
    seconds: list[float] = []
    try:
        for _ in range(2):
            start = time.perf_counter()
            await pool.run(chosen_candidates, A_PROGRAM.to_json(), 500, timeout_s=60)
            seconds.append(time.perf_counter() - start)
    finally:
        await pool.aclose()
    return {"first": seconds[0], "next": seconds[1]}


def growth(widths: Sequence[int], values: Sequence[float]) -> float | None:
    """The exponent e for which values grow as width^e, by least squares on logarithms; None if there is none."""
    if len(widths) < 2 or min(values) <= 0:
        return None
    return statistics.linear_regression([math.log(width) for width in widths], [math.log(v) for v in values]).slope


def load_solver() -> None:
    """Has this process load SciPy, so that no measurement pays for it."""
    chosen_candidates(A_PROGRAM.to_json(), 500)
    cluster_labels(packed(np.eye(3, dtype=np.float32)), 3, 0.05)


async def measure(widths: Sequence[int], specs: Sequence[str], num_problems: int) -> dict[str, Any]:  # Any: JSON values
    """All measurements."""
    facts = machine()
    load_solver()
    sets = [open_set(spec, count=num_problems, seed=4) for spec in specs]
    by_width: dict[int, dict[str, Any]] = {}  # Any: JSON values
    for width in widths:
        async with Orchestrator(MODELS["small"], roles={"verifier": MODELS["verifier"]}, store="memory:") as ttc:
            by_width[width] = (await costs_of(ttc, sets, width)).summary()
    own = [sum(row["own_ms_per_node"].values()) for row in by_width.values()]
    program = [row["own_ms_per_node"]["program"] for row in by_width.values()]
    return {
        "machine": facts,
        "models": MODELS,
        "sets": list(specs),
        "by_width": by_width,
        "growth_exponent": {"own": growth(widths, own), "program": growth(widths, program)},
        "first_call_s": await first_call_s(),
    }


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    rows = result["by_width"]
    lines = [
        "# Search overhead",
        "",
        f"What our own code costs in a tree search: ETS on {', '.join(result['sets'])}. The steps are written and",
        f"embedded by `{result['models']['small']}` and judged by `{result['models']['verifier']}`; a node is a step.",
        "Own code is the program and the clustering (time waited for them, in a process of their own) and the event",
        "loop (CPU time of its thread: policy, controller, journal, the engines' Python side). It depends little on",
        "the model, and the lab's are about as small as models get: with any other, its share of generation, which is",
        "the time waited for steps, is smaller.",
        "Made by `python -m orchestrator.bench.search_overhead`.",
        "",
        *table(
            ("width", "jobs", "levels", "nodes", "generation", "rewards", "embedding", "release", "own code", "share"),
            [
                (
                    width,
                    row["jobs"],
                    row["levels"],
                    row["nodes"],
                    *(f"{row['wall_ms_per_node'].get(kind, 0):.2f}" for kind in _KINDS_SHOWN),
                    f"{sum(row['own_ms_per_node'].values()):.2f}",
                    f"{row['own_share_of_generation']:.0%}",
                )
                for width, row in rows.items()
            ],
        ),
        "",
        "Milliseconds per node; the share is that of own code of generation. Own code in its parts:",
        "",
        *table(
            ("width", "program", "clustering", "event loop", "CPU ms a program", "most", "without solver"),
            [
                (
                    width,
                    *(f"{row['own_ms_per_node'][part]:.2f}" for part in ("program", "clustering", "event_loop")),
                    f"{row['cpu_ms_per_call'].get('program', 0):.2f}",
                    f"{row['most_cpu_ms_of_a_call'].get('program', 0):.1f}",
                    f"{row['settled_without_solver']:.0%}",
                )
                for width, row in rows.items()
            ],
        ),
        "",
        *_growth_lines(result["growth_exponent"]),
        f"The first program of a service takes {result['first_call_s']['first']:.2f} s, since a worker is started and",
        f"SciPy loaded for it; the next takes {1e3 * result['first_call_s']['next']:.1f} ms.",
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


_KINDS_SHOWN = ("generation", "rewards", "embedding", "release")


def _growth_lines(exponents: dict[str, float | None]) -> list[str]:
    return [
        f"Per node, {label} grows with the width to the power {exponents[key]:.2f}."
        for key, label in (("own", "own code"), ("program", "the program"))
        if exponents[key] is not None
    ]


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="problems, for instance expression@10")
    parser.add_argument("--problems", type=int, default=8, help="of each set")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    result = asyncio.run(measure(options.widths, options.sets, options.problems))
    text = page(result)
    write(options.out, "search_overhead", result, text)
    print(text)


if __name__ == "__main__":
    main()
