"""The page of `orchestrator.bench.affinity`: means of the arms, and ratios paired by job, batch and round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.bench.affinity_cluster import OFF, ON
from orchestrator.bench.analysis.estimates import Estimate, mean_ratio, paired_difference
from orchestrator.bench.report import machine_line, table

Row = Mapping[str, Any]  # Any: JSON values


def page(result: Row) -> str:
    """The figures as Markdown."""
    policies = list(dict.fromkeys(job["policy"] for job in result["jobs"]))
    lines = [
        "# Affinity of trees to replicas",
        "",
        f"{result['replicas']} replicas on a Ray cluster on this machine, each with `lab:small` and `lab:prm`, one",
        "thread each; deployed once for each way to route, and used in turn: *on* sends a tree's calls to the replica",
        "that holds it, *off* each call to the less loaded of two drawn at random.",
        f"Made by `{result['command']}`.",
        "",
        "## Searches",
        "",
        f"{3 * result['problems']} problems of three tasks, width {result['width']}, rewards of steps by the reward",
        f"model; {result['at_once']} at once, the same ones with the same seeds on one arm and then on the other.",
        "",
        *_search_means(result, policies),
        "",
        "Prompt tokens are those of both models; read: not in the cache of the replica that took the call. CPU time",
        "is that of all replicas' processes, for each job. Imbalance: calls under way at the fullest replica over the",
        "mean of all, 20 times a second while there are any; the calls of a search come in bursts, a level at a time.",
        "",
        "*On* over *off*, paired: by job for tokens and accuracy, by batch for times and balance; 95% intervals.",
        "",
        *_search_ratios(result, policies),
        "",
        "## One tree makes most calls",
        "",
        f"{result['calls']} calls in each of {result['rounds']} rounds, 64 at once: 60% of one tree, the others of 30",
        "trees; each reads the 96 tokens or more that its tree begins with, and samples 24. *Whatever the load*:",
        "without thresholds, so that a tree never moves.",
        "",
        *_mix_means(result["mixes"]),
        "",
        "Over *off*, paired by round; 95% intervals.",
        "",
        *_mix_ratios(result["mixes"]),
        "",
        "## What the replicas counted",
        "",
        "All calls of trees. Known: the replica had read the tree before; missed: and its cache had nothing of it.",
        "Moved: others had read the tree before, this one had not. Spilled: sent here since the tree's own replica had",
        "too much to do.",
        "",
        *_counters(result["counters"]),
        "",
        *_remarks(result["machine"]),
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def _remarks(facts: Row) -> list[str]:
    """What the machine keeps from being seen."""
    lines = []
    if facts["cores"] < 4:
        lines += [
            f"All replicas share {facts['cores']} cores, so what affinity saves in reading shows as CPU time; what a",
            "full replica would cost where each has a core or an accelerator of its own does not show as wall time.",
        ]
    if facts["load_average_1min"] > facts["cores"]:
        lines += [
            "The machine did other work meanwhile. The arms took turns, but wall times may depend on that work more",
            "than on them.",
        ]
    return [*lines, ""] if lines else []


def _search_means(result: Row, policies: Sequence[str]) -> list[str]:
    rows = []
    for policy in policies:
        for arm in (ON.name, OFF.name):
            jobs, batches = _of(result["jobs"], policy, arm), _of(result["batches"], policy, arm)
            prompt = sum(job["prompt_tokens"] for job in jobs)
            cached = sum(job["cached_tokens"] for job in jobs)
            rows.append(
                (
                    policy,
                    arm,
                    len(jobs),
                    f"{_mean(jobs, 'is_correct'):.3f}",
                    f"{prompt / len(jobs):,.0f}",
                    f"{cached / prompt:.1%}",
                    f"{(prompt - cached) / len(jobs):,.0f}",
                    f"{sum(batch['cpu_s'] for batch in batches) / len(jobs):.3f}",
                    f"{_mean(jobs, 'wall_s'):.2f}",
                    f"{_mean(batches, 'imbalance'):.2f}",
                )
            )
    return table(
        (
            "policy",
            "affinity",
            "jobs",
            "accuracy",
            "prompt tokens",
            "cached",
            "read",
            "CPU s",
            "wall s of a job",
            "imbalance",
        ),
        rows,
    )


def _search_ratios(result: Row, policies: Sequence[str]) -> list[str]:
    rows = []
    for policy in policies:
        jobs = _pairs(_of(result["jobs"], policy, ON.name), _of(result["jobs"], policy, OFF.name), "problem")
        batches = _pairs(_of(result["batches"], policy, ON.name), _of(result["batches"], policy, OFF.name), "number")
        right = [np.array([float(pair[place]["is_correct"]) for pair in jobs]) for place in (0, 1)]
        difference = paired_difference(*right).to_json()
        rows.append(
            (
                policy,
                _ratio(jobs, _read),
                _ratio(batches, lambda batch: batch["cpu_s"]),
                _ratio(batches, lambda batch: batch["wall_s"]),
                _ratio(batches, lambda batch: batch["imbalance"]),
                _difference(difference),
            )
        )
    return table(
        ("policy", "prompt tokens read", "CPU time of replicas", "wall time", "imbalance", "accuracy (difference)"),
        rows,
    )


def _mix_means(mixes: Mapping[str, Sequence[Row]]) -> list[str]:
    return table(
        ("affinity", "cached", "prompt tokens read a call", "CPU ms a call", "wall s", "imbalance"),
        [
            (
                name,
                f"{sum(mix['cached_tokens'] for mix in own) / sum(mix['prompt_tokens'] for mix in own):.1%}",
                f"{sum(map(_read, own)) / sum(mix['calls'] for mix in own):.1f}",
                f"{1e3 * sum(mix['cpu_s'] for mix in own) / sum(mix['calls'] for mix in own):.1f}",
                f"{_mean(own, 'wall_s'):.2f}",
                f"{_mean(own, 'imbalance'):.2f}",
            )
            for name, own in mixes.items()
        ],
    )


def _mix_ratios(mixes: Mapping[str, Sequence[Row]]) -> list[str]:
    return table(
        ("affinity", "prompt tokens read", "CPU time of replicas", "wall time", "imbalance"),
        [
            (name, _ratio(pairs, _read), *(_ratio(pairs, _field(key)) for key in ("cpu_s", "wall_s", "imbalance")))
            for name, own in mixes.items()
            if name != OFF.name
            for pairs in [list(zip(own, mixes[OFF.name], strict=True))]
        ],
    )


def _counters(counters: Mapping[str, Sequence[Row]]) -> list[str]:
    names = ("tree_calls", "known_calls", "missed_calls", "moved_calls", "spilled_calls", "expired_trees")
    return table(
        ("affinity", "calls", "known", "missed", "moved", "spilled", "trees that expired"),
        [(arm, *(f"{sum(each[name] for each in own):,}" for name in names)) for arm, own in counters.items()],
    )


def _of(rows: Sequence[Row], policy: str, arm: str) -> list[Row]:
    return [row for row in rows if (row["policy"], row["arm"]) == (policy, arm)]


def _pairs(ours: Sequence[Row], theirs: Sequence[Row], key: str) -> list[tuple[Row, Row]]:
    others = {row[key]: row for row in theirs}
    return [(row, others[row[key]]) for row in ours]


def _read(row: Row) -> float:
    return float(row["prompt_tokens"] - row["cached_tokens"])


def _field(name: str) -> Callable[[Row], float]:
    return lambda row: float(row[name])


def _mean(rows: Sequence[Row], name: str) -> float:
    return statistics.fmean(float(row[name]) for row in rows)


def _ratio(pairs: Sequence[tuple[Row, Row]], value: Callable[[Row], float]) -> str:
    ours, theirs = (np.array([value(pair[place]) for pair in pairs]) for place in (0, 1))
    estimate = mean_ratio(ours, theirs)
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _difference(found: Mapping[str, Any]) -> str:
    estimate = Estimate.from_json(found)
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"
