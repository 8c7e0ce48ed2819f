"""Checks of the instrument itself that a reader can follow, from recorded pools and rows of jobs.

``python -m orchestrator.bench.sanity ROWS... --live ROWS``: the unbiased pass@n equals direct counting over random
subsets; best-of-n with an oracle, run through the controller, equals pass@n; replaying a pool agrees with live jobs on
the same problems. Writes `sanity.json` and `sanity.md`, and ends with 1 if a check fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.analysis.estimates import interval, paired_difference, pass_at
from orchestrator.bench.recorded.pool import Pool, read_pool
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.runs.rows import Row, read_rows

ORACLE = "oracle-"
_SUBSETS = 400
_WIDTHS = (1, 4, 16)
_STANDARD_ERRORS = 4.0
"""How far two figures may be apart that should be equal; chance goes beyond it once in 16,000 checks."""


def counted_pass_at(pool: Pool, n: int) -> dict[str, Any]:  # Any: JSON values
    """Pass@n of a pool by the formula, and by counting random subsets of n samples that hold a right one."""
    rng = np.random.default_rng(n)
    by_formula: list[float] = []
    counted: list[float] = []
    variance = 0.0
    for problem in pool.problems.values():
        right = np.array([sample.is_correct for sample in problem.samples], bool)
        by_formula.append(pass_at(n, len(right), int(right.sum())))
        subsets = rng.random((_SUBSETS, len(right))).argsort(axis=1)[:, :n]
        hits = right[subsets].any(axis=1)
        counted.append(float(hits.mean()))
        variance += float(hits.var()) / _SUBSETS
    error = variance**0.5 / len(counted)
    difference = float(np.mean(counted) - np.mean(by_formula))
    return {
        "formula": interval(by_formula),
        "counted": round(float(np.mean(counted)), 5),
        "standard_error": round(error, 6),
        "agrees": abs(difference) <= _STANDARD_ERRORS * error + 1e-9,
    }


def oracle_against_pass_at(pool: Pool, rows: Iterable[Row], n: int) -> dict[str, Any] | None:  # Any: JSON values
    """Accuracy of best-of-n by an oracle against pass@n of the same problems, paired; None without such rows."""
    rights: dict[str, list[float]] = {}
    for row in rows:
        if row.label == f"{ORACLE}{n}" and row.problem in pool.problems and row.set == pool.header.set:
            rights.setdefault(row.problem, []).append(float(row.is_correct))
    if not rights:
        return None
    accuracy = {name: float(np.mean(values)) for name, values in rights.items()}
    expected = {
        name: pass_at(n, len(pool.problems[name].samples), pool.problems[name].num_correct) for name in accuracy
    }
    return _compared(accuracy, expected)


def replayed_against_live(replayed: Iterable[Row], live: Sequence[Row]) -> list[dict[str, Any]]:  # Any: JSON values
    """Accuracy of the same cells (set, label, budget) on the same problems, replayed and live, paired."""
    wanted = {(row.set, row.label, row.budget) for row in live}
    pools: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in replayed:
        if row.is_replayed and (key := (row.set, row.label, row.budget)) in wanted:
            pools.setdefault(key, {}).setdefault(row.problem, []).append(float(row.is_correct))
    found = []
    for key in sorted(wanted & set(pools)):
        ours: dict[str, list[float]] = {}
        for row in live:
            if (row.set, row.label, row.budget) == key:
                ours.setdefault(row.problem, []).append(float(row.is_correct))
        both = {name for name in ours if name in pools[key]}
        if both:
            one, other = ({name: float(np.mean(side[name])) for name in both} for side in (ours, pools[key]))
            found.append({"set": key[0], "label": key[1], "budget": key[2], **_compared(one, other)})
    return found


def _compared(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:  # Any: JSON values
    names = sorted(one)
    left, right = [one[name] for name in names], [other[name] for name in names]
    difference = paired_difference(left, right)
    estimate = difference.estimate
    return {
        "problems": len(names),
        "one": round(float(np.mean(left)), 4),
        "other": round(float(np.mean(right)), 4),
        "difference": estimate.to_json(),
        "agrees": abs(estimate.value) <= _STANDARD_ERRORS * estimate.half_width / 1.96,
    }


def check(pools: Iterable[Pool], rows: Sequence[Row], live: Sequence[Row]) -> dict[str, Any]:  # Any: JSON values
    """All checks."""
    counting, oracle = [], []
    for pool in pools:
        for n in _WIDTHS:
            named = {"set": pool.header.set, "model": pool.header.model.name, "n": n}
            counting.append({**named, **counted_pass_at(pool, n)})
            if (found := oracle_against_pass_at(pool, [row for row in rows if _is_of(row, pool)], n)) is not None:
                oracle.append({**named, **found})
    return {
        "counting": counting,
        "oracle": oracle,
        "live": replayed_against_live(rows, live),
        **machine(),
    }


def _is_of(row: Row, pool: Pool) -> bool:
    return row.is_replayed and row.model == pool.name


def failures(result: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    """Checks that fail, in words."""
    failed = [f"pass@{item['n']} of {item['set']}" for item in result["counting"] if not item["agrees"]]
    for name in ("oracle", "live"):
        off = sum(not item["agrees"] for item in result[name])
        if off:
            failed.append(f"{off} of {len(result[name])} cells of {name}")
        if not result[name]:
            failed.append(f"there are no rows for {name}")
    return failed


def page(result: Mapping[str, Any]) -> str:  # Any: JSON values
    """The checks as Markdown."""
    counting = [
        (item["set"], item["model"], item["n"], f"{item['formula']['mean']:.4f}", f"{item['counted']:.4f}", _yes(item))
        for item in result["counting"]
    ]
    oracle = [(item["set"], item["n"], item["problems"], *_figures(item)) for item in result["oracle"]]
    live = [(item["set"], item["label"], item["budget"], item["problems"], *_figures(item)) for item in result["live"]]
    return (
        "\n".join(
            [
                "# Is the instrument right?",
                "",
                f"Pass@n by the unbiased formula, and the share of {_SUBSETS} random subsets of n samples that hold a",
                f"right one. Two figures agree here if they are within {_STANDARD_ERRORS:.0f} standard errors.",
                "",
                *table(("set", "model", "n", "formula", "counted", "agree"), counting),
                "",
                "Best-of-n with an oracle, run through the controller on a replayed pool, against pass@n of the same",
                "pool; differences are paired over problems and have 95% intervals.",
                "",
                *table(("set", "n", "problems", "best-of-n", "pass@n", "difference", "agree"), oracle),
                "",
                "Live jobs against jobs replayed on a pool, on the same problems with the same policy and budget.",
                "",
                *table(("set", "policy", "budget", "problems", "live", "replayed", "difference", "agree"), live),
                "",
                f"Made by `python -m orchestrator.bench.sanity`. {machine_line(result)}",
            ]
        )
        + "\n"
    )


def _figures(item: Mapping[str, Any]) -> tuple[str, ...]:  # Any: JSON values
    low, high = item["difference"]["low"], item["difference"]["high"]
    difference = f"{item['difference']['mean']:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"{item['one']:.3f}", f"{item['other']:.3f}", difference, _yes(item)


def _yes(item: Mapping[str, Any]) -> str:  # Any: JSON values
    return "yes" if item["agrees"] else "**no**"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="+", type=Path, help="rows of replayed jobs")
    parser.add_argument("--live", type=Path, required=True, help="rows of live jobs")
    parser.add_argument("--pools", nargs="+", type=Path, required=True, help="the pools")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    rows = [row for path in options.rows for row in read_rows(path)]
    result = check(map(read_pool, options.pools), rows, list(read_rows(options.live)))
    write(options.out, "sanity", result, page(result))
    failed = failures(result)
    for line in failed:
        print(f"does not agree: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
