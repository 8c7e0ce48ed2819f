"""Accuracy as a function of cost, and the other way round: what an accuracy costs on one curve, relative to another.

A curve is a policy at several budgets. Accuracy is made monotone in cost by isotonic regression (pool adjacent
violators) and interpolated linearly over the logarithm of cost. The running maximum would be simpler, but it keeps
every lucky point, and more of them the more budgets a policy was run with. All of it is vectorised over resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from orchestrator.bench.analysis.estimates import (
    RESAMPLES,
    Bounds,
    Estimate,
    Floats,
    cautious_quantiles,
    json_number,
    resampled_means,
)

_GRID = np.linspace(0.0, 1.0, 33)
_ROUNDING = 1e-9


class Points(NamedTuple):
    """A curve, once for each resample.

    Attributes:
        log_costs: Natural logarithms, ascending along the last axis; shape (resamples, points).
        accuracies: Not descending along the last axis; the same shape.
    """

    log_costs: Floats
    accuracies: Floats

    @property
    def lowest(self) -> Floats:
        """Accuracy at the cheapest point; shape (resamples,)."""
        return self.accuracies[:, 0]

    @property
    def highest(self) -> Floats:
        """The best accuracy; shape (resamples,)."""
        return self.accuracies[:, -1]


@dataclass(frozen=True, slots=True)
class CostRatio:
    """What the first of two curves needs for the same accuracy, divided by what the second needs; below 1 is cheaper.

    Attributes:
        ratio: With its 95% interval; the value is NaN where there is none, which ``status`` explains.
        status: ``ok``, or what has to be said beside the ratio or instead of it.
        accuracies: The accuracies it was taken at, from the lowest to the highest; None for none.
        our_cost: Mean cost of a job at that accuracy; NaN for a mean over several accuracies, infinite if not reached.
        their_cost: The same of the second curve.
        num_problems: Problems that all points of both curves have.
    """

    ratio: Estimate
    status: str
    accuracies: Bounds | None
    our_cost: float
    their_cost: float
    num_problems: int

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            "ratio": self.ratio.to_json(),
            "status": self.status,
            "accuracies": None if self.accuracies is None else [json_number(value) for value in self.accuracies],
            "our_cost": json_number(self.our_cost),
            "their_cost": json_number(self.their_cost),
            "num_problems": self.num_problems,
        }


NO_RATIO = Estimate(math.nan, math.nan, math.nan)


def isotonic(values: Floats) -> Floats:
    """The nearest sequence that never descends, in squares, along the last axis.

    Its value at i is the largest over j <= i of the smallest over k >= i of the mean of j to k.
    """
    count = values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    first, last = np.arange(count)[:, None], np.arange(count)[None, :]
    lengths = np.maximum(last - first + 1, 1)
    means = np.where(last >= first, (sums[..., None, 1:] - sums[..., :-1, None]) / lengths, np.inf)
    lowest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
    fitted: Floats = np.where(first <= last, lowest, -np.inf).max(axis=-2)
    return fitted


def points_of(costs: Floats, accuracies: Floats) -> Points:
    """A curve from its points in any order, both of shape (resamples, points); costs are at least 0."""
    order = np.argsort(costs, axis=-1, kind="stable")
    logs = np.log(np.maximum(np.take_along_axis(costs, order, axis=-1), np.finfo(np.float64).tiny))
    return Points(logs, isotonic(np.take_along_axis(accuracies, order, axis=-1)))


def resampled_curves(
    curves: Sequence[tuple[Floats, Floats]], *, seed: int = 0, num_resamples: int = RESAMPLES
) -> list[Points]:
    """Curves over the same problems: row 0 as measured, the other rows over problems resampled jointly.

    Args:
        curves: Costs and accuracies of each, of shape (problems, points); rows are the same problems in all of them.
        seed: Of the resampling.
        num_resamples: Of the resampling.
    """
    columns = np.concatenate([array for curve in curves for array in curve], axis=1)
    measured = columns.mean(axis=0, keepdims=True)
    means = np.concatenate([measured, resampled_means(columns, seed=seed, num_resamples=num_resamples)])
    parts = np.split(means, np.cumsum([array.shape[1] for curve in curves for array in curve])[:-1], axis=1)
    return [points_of(costs, accuracies) for costs, accuracies in zip(parts[::2], parts[1::2], strict=True)]


def log_cost_at(curve: Points, targets: Floats) -> Floats:
    """Logarithm of the cost at which a curve reaches accuracies.

    Args:
        curve: The curve.
        targets: Of shape (resamples, targets).

    Returns:
        Of the same shape; infinite where the curve does not reach the target, and the cheapest point's where that point
        is above it already.
    """
    reached = curve.accuracies[:, None, :] >= targets[:, :, None] - _ROUNDING
    upper = np.argmax(reached, axis=-1)
    lower = np.maximum(upper - 1, 0)
    low, high = (np.take_along_axis(curve.accuracies, index, axis=-1) for index in (lower, upper))
    left, right = (np.take_along_axis(curve.log_costs, index, axis=-1) for index in (lower, upper))
    share = np.clip((targets - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
    share = np.where(upper == lower, 1.0, share)
    return np.where(reached.any(axis=-1), left + share * (right - left), np.inf)


def ratio_at(ours: Points, theirs: Points, target: float, *, num_problems: int) -> CostRatio:
    """The ratio of costs at one accuracy; row 0 of the curves is the measurement, the others are resamples."""
    targets = np.full((len(ours.log_costs), 1), target)
    our_logs, their_logs = log_cost_at(ours, targets)[:, 0], log_cost_at(theirs, targets)[:, 0]
    with np.errstate(invalid="ignore"):
        ratios = np.exp(our_logs - their_logs)
    our_cost, their_cost = math.exp(our_logs[0]), math.exp(their_logs[0])
    is_reached = (math.isfinite(our_cost), math.isfinite(their_cost))
    is_at_most = (bool(ours.lowest[0] > target + _ROUNDING), bool(theirs.lowest[0] > target + _ROUNDING))
    status = _status_at(is_reached, is_at_most)
    ratio = NO_RATIO
    if all(is_reached) and not all(is_at_most):
        ratio = Estimate(float(ratios[0]), *_ends(ratios, num_problems))
    return CostRatio(ratio, status, (target, target), our_cost, their_cost, num_problems)


def _status_at(is_reached: tuple[bool, bool], is_at_most: tuple[bool, bool]) -> str:
    """Of ours and of theirs: whether they reach the target, and whether their cheapest point is above it."""
    match is_reached:
        case (False, False):
            return "neither reaches it"
        case (False, True):
            return "not reached"
        case (True, False):
            return "only this one reaches it"
        case _:
            pass
    match is_at_most:
        case (True, True):
            return "both are above it at their lowest cost"
        case (True, False):
            return "at most: above it at its lowest cost"
        case (False, True):
            return "at least: the baseline is above it at its lowest cost"
        case _:
            return "ok"


def mean_ratio_over_overlap(ours: Points, theirs: Points, *, num_problems: int) -> CostRatio:
    """The geometric mean of the cost ratios at all accuracies that both curves pass through.

    Each resample has its own overlap; in the share of them that have none the ratio is taken as unknown, which widens
    the interval.
    """
    low = np.maximum(ours.lowest, theirs.lowest)
    high = np.minimum(ours.highest, theirs.highest)
    if high[0] < low[0] - _ROUNDING:
        above = "always above the baseline" if ours.lowest[0] > theirs.highest[0] else "never as high as the baseline"
        return CostRatio(NO_RATIO, f"no accuracy in common: {above}", None, math.nan, math.nan, num_problems)
    is_common = high >= low - _ROUNDING
    targets = low[:, None] + _GRID * np.maximum(high - low, 0.0)[:, None]
    with np.errstate(invalid="ignore"):
        logs = (log_cost_at(ours, targets) - log_cost_at(theirs, targets)).mean(axis=-1)
    ratios = np.where(is_common, np.exp(logs), np.nan)
    ratio = Estimate(float(ratios[0]), *_ends(ratios, num_problems))
    accuracies = (float(low[0]), max(float(low[0]), float(high[0])))
    return CostRatio(ratio, "ok", accuracies, math.nan, math.nan, num_problems)


def _ends(ratios: Floats, num_problems: int) -> tuple[float, float]:
    return (0.0, math.inf) if num_problems == 1 else cautious_quantiles(ratios[1:])
