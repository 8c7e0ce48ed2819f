"""A policy and its baseline on the same problems: accuracy at an equal budget, and cost at an equal accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.bench.analysis.axes import Axis
from orchestrator.bench.analysis.curves import NO_RATIO, CostRatio, mean_ratio_over_overlap, ratio_at, resampled_curves
from orchestrator.bench.analysis.estimates import Estimate, Floats, PairedDifference, mean_ratio, paired_difference
from orchestrator.bench.analysis.summary import Cell, Job, Series, is_right, series_names, series_of

USUAL_BASELINE = "single"
_LEVELS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class EqualBudget:
    """Two policies at one budget.

    Attributes:
        name: The policy.
        budget: Its budget.
        baseline: What it is compared with.
        baseline_budget: The same budget, or the only one that the baseline was run with.
        difference: In accuracy, over the problems (and seeds of a problem) that both have.
        cost_ratio: Of mean costs on those; None where the cost is not known.
    """

    name: str
    budget: str
    baseline: str
    baseline_budget: str
    difference: PairedDifference
    cost_ratio: Estimate | None

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            "name": self.name,
            "budget": self.budget,
            "baseline": self.baseline,
            "baseline_budget": self.baseline_budget,
            "difference": self.difference.to_json(),
            "cost_ratio": None if self.cost_ratio is None else self.cost_ratio.to_json(),
        }


@dataclass(frozen=True, slots=True)
class EqualAccuracy:
    """What a policy needs for the accuracy of the baseline, as a ratio of costs; below 1 the policy is cheaper.

    Attributes:
        name: The policy.
        baseline: What it is compared with.
        over_overlap: Geometric mean over all accuracies that both reach.
        at_levels: At a quarter, a half and three quarters of those accuracies.
        at_target: At the accuracy that was asked for.
    """

    name: str
    baseline: str
    over_overlap: CostRatio
    at_levels: tuple[CostRatio, ...]
    at_target: CostRatio | None

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            "name": self.name,
            "baseline": self.baseline,
            "over_overlap": self.over_overlap.to_json(),
            "at_levels": [level.to_json() for level in self.at_levels],
            "at_target": None if self.at_target is None else self.at_target.to_json(),
        }


def baselines_of(cells: Sequence[Cell], baseline: str | None) -> dict[Series, Series]:
    """What each series is compared with: the baseline on the same model, else the first; itself left out."""
    names = series_names(cells)
    policies = {cell.series: next(iter(cell.rows.values())).policy for cell in cells}
    if baseline is None:
        usual = [series for series in names if USUAL_BASELINE in {series.label, policies[series]}]
        candidates = usual or list(names)[:1]
    else:
        candidates = [series for series, name in names.items() if baseline in {series.label, name}]
    if not candidates:
        return {}
    chosen = {series: next((one for one in candidates if one.model == series.model), candidates[0]) for series in names}
    return {series: other for series, other in chosen.items() if series != other}


def equal_budget(
    cells: Sequence[Cell], baselines: Mapping[Series, Series], *, axis: Axis, margin: float
) -> tuple[EqualBudget, ...]:
    """Paired differences of all cells that have a baseline."""
    names, own = series_names(cells), series_of(cells)
    found = []
    for cell in cells:
        if cell.series not in baselines:
            continue
        series = baselines[cell.series]
        others = [other for other in own[series] if other.budget == cell.budget or len(own[series]) == 1]
        for other in others:
            gain = paired_difference(*paired_problems(cell, other), margin=margin)
            found.append(
                EqualBudget(
                    names[cell.series], cell.budget, names[series], other.budget, gain, _cost_ratio(cell, other, axis)
                )
            )
    return tuple(found)


def paired_jobs(ours: Cell, theirs: Cell) -> tuple[set[Job], set[Job]]:
    """Jobs of both over the same problems: with the same seeds, or with all of each where they share no seed."""
    shared = ours.rows.keys() & theirs.rows.keys()
    unpaired = (ours.problems & theirs.problems) - {problem for problem, _ in shared}
    first, second = (shared | {job for job in cell.rows if job[0] in unpaired} for cell in (ours, theirs))
    return first, second


def paired_problems(ours: Cell, theirs: Cell) -> tuple[Floats, Floats]:
    """Shares of right answers of both, problem by problem, over the jobs of `paired_jobs`."""
    first, second = paired_jobs(ours, theirs)
    columns = _aligned(ours.means(is_right, jobs=first), theirs.means(is_right, jobs=second))
    return columns[0], columns[1]


def _cost_ratio(ours: Cell, theirs: Cell, axis: Axis) -> Estimate | None:
    if ours.costs(axis) is None or theirs.costs(axis) is None:
        return None
    first, second = paired_jobs(ours, theirs)
    columns = _aligned(ours.means(axis.spent, jobs=first), theirs.means(axis.spent, jobs=second))
    return mean_ratio(*columns) if columns[0].size else None


def _aligned(*columns: Mapping[str, float]) -> tuple[Floats, ...]:
    """Columns over the problems that all of them have, in one order."""
    problems = sorted(set.intersection(*(set(column) for column in columns)))
    return tuple(np.array([column[problem] for problem in problems]) for column in columns)


def equal_accuracy(
    ours: Sequence[Cell], theirs: Sequence[Cell], names: tuple[str, str], *, axis: Axis, target: float | None
) -> EqualAccuracy:
    """The ratio of the costs of two curves over the problems that all their cells have.

    Args:
        ours: Cells of a series; at least one has costs.
        theirs: The baseline's.
        names: Of both.
        axis: What cost means.
        target: An accuracy at which the ratio is taken besides.
    """
    sides = [[cell for cell in cells if any((cell.costs(axis) or {}).values())] for cells in (ours, theirs)]
    columns = [(cell.costs(axis) or {}, cell.means(is_right)) for cells in sides for cell in cells]
    arrays = _aligned(*(column for pair in columns for column in pair))
    num_problems = len(arrays[0])
    if not num_problems:
        nothing = CostRatio(NO_RATIO, "no common problems", None, math.nan, math.nan, 0)
        return EqualAccuracy(*names, nothing, (), nothing if target else None)
    costs, rights = np.stack(arrays[::2], axis=1), np.stack(arrays[1::2], axis=1)
    split = len(sides[0])
    first, second = resampled_curves([(costs[:, :split], rights[:, :split]), (costs[:, split:], rights[:, split:])])
    overlap = mean_ratio_over_overlap(first, second, num_problems=num_problems)
    levels: list[float] = []
    if overlap.accuracies is not None:
        low, high = overlap.accuracies
        levels = [low + level * (high - low) for level in _LEVELS]
    return EqualAccuracy(
        *names,
        overlap,
        tuple(ratio_at(first, second, level, num_problems=num_problems) for level in levels),
        None if target is None else ratio_at(first, second, target, num_problems=num_problems),
    )
