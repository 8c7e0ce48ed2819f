"""Estimates with their uncertainty: pass@k without bias, bootstrap intervals over problems, paired differences, ratios.

The unit that is resampled is the problem: callers give one value a problem, the mean over its seeds or samples, so all
jobs of a problem stay together. Intervals are two-sided 95% percentile intervals unless they say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bounds = tuple[float, float]

RESAMPLES = 2000
SHARES: Bounds = (0.0, 1.0)
"""Bounds of accuracies and of pass@k."""

DIFFERENCES: Bounds = (-1.0, 1.0)
"""Bounds of differences of two shares."""

DEFAULT_MARGIN = 0.02
"""How much lower an accuracy may be and still count as not worse."""

_TAIL = 0.025
_ONE_SIDED_TAIL = 0.05
_BLOCK = 1_000_000  # weights held at once, so that memory does not grow with the problems


class Estimate(NamedTuple):
    """A value with the ends of its interval; an end is infinite where the problems say nothing about it."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    @classmethod
    def from_json(cls, data: Mapping[str, float | None]) -> Estimate:
        """The inverse of `to_json`, and of `interval`; what is missing is NaN."""
        mean, low, high = (math.nan if (end := data.get(name)) is None else end for name in ("mean", "low", "high"))
        return cls(mean, low, high)

    def to_json(self) -> dict[str, float | None]:
        """``mean``, ``low``, ``high``; None for what is not finite."""
        return {"mean": json_number(self.value), "low": json_number(self.low), "high": json_number(self.high)}


def json_number(value: float) -> float | None:
    """Six significant digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def pass_at(k: int, num_samples: int, num_right: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (Chen et al., 2021)."""
    return 1.0 - comb(num_samples - num_right, k) / comb(num_samples, k)


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean of one value a problem with its 95% interval, rounded; see `mean_estimate`."""
    is_share = all(0.0 <= value <= 1.0 for value in values)
    estimate = mean_estimate(values, bounds=SHARES if is_share else None)
    return {"mean": round(estimate.value, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4)}


def resampled_means(
    values: Floats, *, seed: int = 0, num_resamples: int = RESAMPLES, num_problems: int | None = None
) -> Floats:
    """Means over problems drawn with replacement; the columns of ``values`` share each draw, so they stay paired.

    Each draw has one problem fewer than ``num_problems``: that makes the variance of the resampled means equal the
    unbiased variance of the mean, where as many draws as problems give (n - 1) / n of it (Rao and Wu, 1988).

    Args:
        values: One value a problem, of shape (problems,) or (problems, columns).
        seed: At least 0; equal seeds and numbers of problems give equal draws, for any values.
        num_resamples: How many draws.
        num_problems: Of how many problems means are wanted; as many as there are by default.

    Returns:
        Of shape (resamples,) or (resamples, columns).
    """
    known = len(values)
    drawn = max(1, (num_problems or known) - 1)
    block = max(1, _BLOCK // max(known, drawn))
    starts = range(0, num_resamples, block)
    sizes = [min(block, num_resamples - start) for start in starts]
    return np.concatenate(
        [_weights(seed, start, size, known, drawn) @ values for start, size in zip(starts, sizes, strict=True)]
    )


@lru_cache(maxsize=8)  # the same draws serve all cells, costs and curves over equally many problems
def _weights(seed: int, start: int, num_resamples: int, num_problems: int, num_drawn: int) -> Floats:
    rng = np.random.default_rng([seed, start])
    picks = rng.integers(num_problems, size=(num_resamples, num_drawn))
    cells = picks + num_problems * np.arange(num_resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=num_resamples * num_problems)
    return counts.reshape(num_resamples, num_problems) / num_drawn


def mean_estimate(
    values: Sequence[float] | Floats, *, bounds: Bounds | None = None, seed: int = 0, num_resamples: int = RESAMPLES
) -> Estimate:
    """The mean over problems with its 95% interval.

    Where every problem has the same value (all right, all wrong, only one problem), resampling shows no spread and its
    interval would have no width. So a bounded mean is never surer than what was never seen in n problems allows: a
    share z^2 / (n + z^2) of all problems, Wilson's upper bound, may lie at either end of the bounds. With all right
    this is Wilson's interval; away from the bounds the bootstrap is wider and decides.

    Args:
        values: One value a problem; at least one.
        bounds: Between which every problem's value has to lie; None for none, as with costs. Without bounds, one
            problem says nothing of others and the interval is infinite.
        seed: Of the resampling.
        num_resamples: Of the resampling.
    """
    array = _checked(values)
    mean = float(array.mean())
    if len(array) == 1 and bounds is None:
        return Estimate(mean, -math.inf, math.inf)
    draws = resampled_means(array, seed=seed, num_resamples=num_resamples)
    return Estimate(mean, *_bounded_ends(draws, mean, len(array), bounds=bounds, tail=_TAIL))


def quantiles(draws: Floats, *, tail: float = _TAIL) -> tuple[float, float]:
    """The ends that leave ``tail`` of the draws outside on each side; order statistics, so infinities are kept."""
    low = float(np.quantile(draws, tail, method="lower"))
    return low, float(np.quantile(draws, 1 - tail, method="higher"))


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much higher the first of two means is on the same problems.

    Attributes:
        estimate: The mean difference with its two-sided 95% interval.
        worst: The difference is above this with one-sided 95% confidence.
        margin: How much lower the first may be and still count as not worse.
        num_problems: Problems that both have; 0 for none, and then all numbers are NaN.
    """

    estimate: Estimate
    worst: float
    margin: float
    num_problems: int

    @property
    def is_not_worse(self) -> bool:
        """Non-inferiority: ``worst`` is above minus the margin."""
        return self.worst > -self.margin

    @property
    def verdict(self) -> str:
        """What the intervals allow to be said, in words."""
        if not self.num_problems:
            return "no common problems"
        if self.estimate.low > 0:
            return "better"
        if self.estimate.high < 0:
            return f"worse, by less than {self.margin:g}" if self.is_not_worse else "worse"
        return f"not worse (margin {self.margin:g})" if self.is_not_worse else "undecided"

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            **self.estimate.to_json(),
            "worst_one_sided": json_number(self.worst),
            "margin": self.margin,
            "is_not_worse": self.is_not_worse,
            "num_problems": self.num_problems,
            "verdict": self.verdict,
        }


def paired_difference(
    ours: Sequence[float] | Floats,
    theirs: Sequence[float] | Floats,
    *,
    margin: float = DEFAULT_MARGIN,
    seed: int = 0,
    num_resamples: int = RESAMPLES,
) -> PairedDifference:
    """The difference of two accuracies over the same problems, which are resampled together.

    Args:
        ours: One share a problem.
        theirs: The same problems in the same order; two empty sequences for no common problems.
        margin: See `PairedDifference`.
        seed: Of the resampling.
        num_resamples: Of the resampling.
    """
    if not len(ours) and not len(theirs):
        return PairedDifference(Estimate(math.nan, math.nan, math.nan), math.nan, margin, 0)
    differences = _checked(ours) - _checked(theirs)
    mean = float(differences.mean())
    draws = resampled_means(differences, seed=seed, num_resamples=num_resamples)
    low, high = _bounded_ends(draws, mean, len(differences), bounds=DIFFERENCES, tail=_TAIL)
    worst, _ = _bounded_ends(draws, mean, len(differences), bounds=DIFFERENCES, tail=_ONE_SIDED_TAIL)
    return PairedDifference(Estimate(mean, low, high), worst, margin, len(differences))


def mean_ratio(
    ours: Sequence[float] | Floats, theirs: Sequence[float] | Floats, *, seed: int = 0, num_resamples: int = RESAMPLES
) -> Estimate:
    """The ratio of two mean costs over the same problems, which are resampled together.

    Args:
        ours: One cost a problem, not negative; at least one.
        theirs: The same problems in the same order.
        seed: Of the resampling.
        num_resamples: Of the resampling.

    Returns:
        From 0 to infinity where there is one problem only; NaN where both means are 0.
    """
    costs = np.stack([_checked(ours), _checked(theirs)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.divide(*costs.mean(axis=0)))
        draws = np.divide(*resampled_means(costs, seed=seed, num_resamples=num_resamples).T)
    if len(costs) == 1 or math.isnan(value):
        return Estimate(value, 0.0, math.inf)
    return Estimate(value, *cautious_quantiles(draws))


def cautious_quantiles(ratios: Floats) -> tuple[float, float]:
    """Ends of an interval of ratios; a draw without one (NaN) counts as 0 for the lower end, infinite for the upper."""
    low, _ = quantiles(np.where(np.isnan(ratios), 0.0, ratios))
    _, high = quantiles(np.where(np.isnan(ratios), math.inf, ratios))
    return low, high


def half_widths(
    values: Sequence[float] | Floats, counts: Iterable[int], *, bounds: Bounds | None = SHARES, seed: int = 0
) -> dict[int, float]:
    """Half the length that the interval of the mean would have with other numbers of problems like these.

    Args:
        values: One value a problem.
        counts: Numbers of problems; larger ones than there are extrapolate.
        bounds: As in `mean_estimate`.
        seed: Of the resampling.
    """
    array = _checked(values)
    widths = {}
    for count in counts:
        draws = resampled_means(array, seed=seed, num_problems=count)
        low, high = _bounded_ends(draws, float(array.mean()), count, bounds=bounds, tail=_TAIL)
        widths[count] = math.inf if count == 1 and bounds is None else (high - low) / 2
    return widths


def _bounded_ends(
    draws: Floats, mean: float, num_problems: int, *, bounds: Bounds | None, tail: float
) -> tuple[float, float]:
    """Quantiles, no nearer than the mean if the problems that may have gone unseen were all at one of the bounds."""
    low, high = quantiles(draws, tail=tail)
    if bounds is None:
        return low, high
    squared = NormalDist().inv_cdf(tail) ** 2
    unseen = squared / (num_problems + squared)
    return min(low, mean - unseen * (mean - bounds[0])), max(high, mean + unseen * (bounds[1] - mean))


def _checked(values: Sequence[float] | Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"one value for each of at least one problem is needed, not shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite numbers")
    return array
