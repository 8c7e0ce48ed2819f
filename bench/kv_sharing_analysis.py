"""What came of the searches of `orchestrator.bench.kv_sharing`: means, paired comparisons, and the page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.analysis.estimates import Estimate, Floats, mean_ratio, paired_difference
from orchestrator.bench.report import machine_line, table
from orchestrator.usage import Usage

BASELINE = "rebase"


@dataclass(frozen=True, slots=True)
class Job:
    """One search and what came of it.

    Attributes:
        cap: Cells of each model in the arm that has few.
        auc: Of the blurred checkers that gave the rewards; None where the reward model did.
        cpu_s: CPU time of the process.
        usage: `Usage.to_json`.
    """

    set: str
    problem: str
    seed: int
    width: int
    cap: int
    policy: str
    arm: str
    is_correct: bool
    wall_s: float
    cpu_s: float
    usage: dict[str, Any]  # Any: JSON values
    auc: float | None = None

    @property
    def counts(self) -> Usage:
        """What it used."""
        return Usage.from_json(self.usage)

    @property
    def read_tokens(self) -> int:
        """Prompt tokens computed, those of the reward model included."""
        return self.counts.prompt_tokens - self.counts.cached_prompt_tokens

    @property
    def kept_unshared_tokens(self) -> float:
        """KV tokens kept on average over its levels if no prefix were shared."""
        return self.counts.kept_logical_kv_tokens / max(self.counts.num_levels, 1)


def read_jobs(path: Path) -> list[Job]:
    """Rows of an earlier run; a last line that was cut off is taken out of the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return [Job(**json.loads(line)) for line in text.splitlines()]


Problems = Sequence[tuple[str, str]]
"""Set and id of each."""


class Columns:
    """Jobs of one policy in one arm, as one value a problem: the mean over its seeds."""

    def __init__(self, jobs: Sequence[Job], policy: str, arm: str) -> None:
        self._jobs: dict[tuple[str, str], list[Job]] = {}
        for job in jobs:
            if (job.policy, job.arm) == (policy, arm):
                self._jobs.setdefault((job.set, job.problem), []).append(job)

    @property
    def problems(self) -> Problems:
        """In a fixed order."""
        return sorted(self._jobs)

    def of(self, value: Callable[[Job], float], problems: Problems) -> Floats:
        """One value for each of some problems."""
        return np.array([statistics.fmean(map(value, self._jobs[problem])) for problem in problems])

    def summary(self) -> dict[str, float]:
        """Means over all problems."""

        def mean(value: Callable[[Job], float]) -> float:
            return float(self.of(value, self.problems).mean())

        return {
            "jobs": sum(map(len, self._jobs.values())),
            "accuracy": mean(lambda job: job.is_correct),
            "output_tokens": mean(lambda job: job.counts.output_tokens),
            "read_tokens": mean(lambda job: job.read_tokens),
            "recomputed_tokens": mean(lambda job: job.counts.recomputed_tokens),
            "peak_kv_cells": mean(lambda job: job.counts.peak_kv_cells),
            "kept_kv_tokens": mean(lambda job: job.counts.mean_kept_kv_tokens),
            "kept_unshared_tokens": mean(lambda job: job.kept_unshared_tokens),
            "wall_s": mean(lambda job: job.wall_s),
            "cpu_s": mean(lambda job: job.cpu_s),
        }


def compared(ours: Columns, theirs: Columns) -> dict[str, Any]:  # Any: JSON values
    """Paired over the problems that both have: the difference in accuracy, and ratios of mean costs."""
    common = sorted(set(ours.problems) & set(theirs.problems))

    def ratio(value: Callable[[Job], float]) -> dict[str, float | None]:
        return mean_ratio(ours.of(value, common), theirs.of(value, common)).to_json()

    right = [columns.of(lambda job: job.is_correct, common) for columns in (ours, theirs)]
    return {
        "accuracy": paired_difference(*right).to_json(),
        "read_tokens": ratio(lambda job: job.read_tokens),
        "kept_kv_tokens": ratio(lambda job: job.counts.mean_kept_kv_tokens),
        "wall_s": ratio(lambda job: job.wall_s),
        "cpu_s": ratio(lambda job: job.cpu_s),
    }


def analysis(jobs: Sequence[Job], policies: Sequence[str], arms: Sequence[str]) -> dict[str, Any]:  # Any: JSON values
    """Means; the arms against the first; the policies against the baseline."""
    columns = {
        (policy, arm): found for policy in policies for arm in arms if (found := Columns(jobs, policy, arm)).problems
    }
    by_arm, by_policy = [], []
    for (policy, arm), found in columns.items():
        names = {"policy": policy, "arm": arm}
        if arm != arms[0]:
            by_arm.append({**names, "against": arms[0], **compared(found, columns[policy, arms[0]])})
        if policy != BASELINE and (BASELINE, arm) in columns:
            by_policy.append({**names, "against": BASELINE, **compared(found, columns[BASELINE, arm])})
    sizes = {name: len({job.problem for job in jobs if job.set == name}) for name in sorted({job.set for job in jobs})}
    by_set = []
    for name in sizes:
        for policy in policies:
            own, theirs = _pair(jobs, name, policy, arms[0])
            if policy != BASELINE and own.problems and theirs.problems:
                row = {"policy": policy, "arm": f"{arms[0]}, {name}", "against": BASELINE}
                by_set.append({**row, **compared(own, theirs)})
    return {
        "problems": sizes,
        "means": [{"policy": policy, "arm": arm, **found.summary()} for (policy, arm), found in columns.items()],
        "arms": by_arm,
        "policies": by_policy,
        "sets": by_set if len(sizes) > 1 else [],
    }


def _pair(jobs: Sequence[Job], name: str, policy: str, arm: str) -> tuple[Columns, Columns]:
    """A policy and the baseline on one set."""
    own = [job for job in jobs if job.set == name]
    return Columns(own, policy, arm), Columns(own, BASELINE, arm)


_COUNTS = {
    "output_tokens": "output tokens",
    "read_tokens": "prompt tokens computed",
    "recomputed_tokens": "recomputed",
    "peak_kv_cells": "peak cells",
    "kept_kv_tokens": "KV kept",
    "kept_unshared_tokens": "if unshared",
}
_RATIOS = {
    "read_tokens": "prompt tokens computed",
    "kept_kv_tokens": "KV kept",
    "wall_s": "wall time",
    "cpu_s": "CPU time",
}


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    problems = ", ".join(f"{count} of {name}" for name, count in result["problems"].items())
    policies = list(dict.fromkeys(row["policy"] for row in result["means"]))
    lines = [
        f"# KV sharing: {', '.join(policies)}",
        "",
        f"Searches of width {result['width']} by `{result['generator']}`; rewards: {result['rewards']};",
        f"{result['split']} problems:",
        f"{problems}.",
        "The same searches with the same seeds in every arm, one at a time, arms in turn: *shared* keeps in the cache",
        "what a tree keeps; *unshared* reads every prompt whole, once for all samples of a request, and keeps nothing;",
        f"*capped* is *shared* with {result['cap']} KV cells a model in place of {result['cells']}.",
        f"Made by `{result['command']}`.",
        "",
        *table(
            ("policy", "arm", "jobs", "accuracy", *_COUNTS.values(), "wall s", "CPU s"),
            [
                (
                    row["policy"],
                    row["arm"],
                    row["jobs"],
                    f"{row['accuracy']:.3f}",
                    *(f"{row[name]:,.0f}" for name in _COUNTS),
                    f"{row['wall_s']:.3f}",
                    f"{row['cpu_s']:.3f}",
                )
                for row in result["means"]
            ],
        ),
        "",
        "Means over the problems. Prompt tokens are those of both models; recomputed ones had been in the cache for",
        "the tree and had to go, some of them while a sample made room for others. Peak cells: most that a tree",
        "(without sharing: a request) held of one model's. KV kept: tokens of the trajectories that a level keeps, on",
        "average over the levels, each prefix once. CPU time is that of the process, in which everything runs but a",
        "policy's own heavy arithmetic.",
        "",
        "Paired by problem: differences in accuracy, with what their intervals allow to be said; ratios of means; 95%",
        "intervals. Not worse by a margin: with one-sided 95% confidence.",
        "",
        *_comparisons(result["arms"]),
        "",
        f"The policies against `{BASELINE}` in the same arm:",
        "",
        *_comparisons([*result["policies"], *result["sets"]]),
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def _comparisons(rows: Sequence[dict[str, Any]]) -> list[str]:
    return table(
        ("policy", "arm", "against", "accuracy", "that is", *_RATIOS.values()),
        [
            (
                row["policy"],
                row["arm"],
                row["against"],
                _difference(row["accuracy"]),
                row["accuracy"]["verdict"],
                *(_ratio(row[n]) for n in _RATIOS),
            )
            for row in rows
        ],
    )


def _difference(found: dict[str, Any]) -> str:
    estimate = Estimate.from_json(found)
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _ratio(found: dict[str, float | None]) -> str:
    estimate = Estimate.from_json(found)
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
