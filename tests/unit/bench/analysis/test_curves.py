"""Curves of accuracy against cost: monotone, inverted with care, and compared over the same problems."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrator.bench.analysis.curves import (
    CostRatio,
    Points,
    isotonic,
    log_cost_at,
    mean_ratio_over_overlap,
    points_of,
    ratio_at,
    resampled_curves,
)
from orchestrator.bench.analysis.estimates import Floats


def a_curve(costs: list[float], accuracies: list[float]) -> Points:
    """A curve as measured, with two resamples that are just like it."""
    return points_of(np.array([costs] * 3), np.array([accuracies] * 3))


def cost_at(curve: Points, accuracy: float) -> float:
    return math.exp(log_cost_at(curve, np.full((3, 1), accuracy))[0, 0])


def at(ours: Points, theirs: Points, target: float) -> CostRatio:
    return ratio_at(ours, theirs, target, num_problems=10)


def pooled(values: list[float]) -> list[float]:
    """Pool adjacent violators, one at a time."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    return [float(np.mean(block)) for block in blocks for _ in block]


@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1)))
def test_isotonic_regression_pools_adjacent_violators(values: Floats):
    assert isotonic(values) == pytest.approx(pooled(list(values)))
    assert isotonic(np.stack([values, values[::-1]]))[1] == pytest.approx(pooled(list(values[::-1])))


def test_points_are_sorted_by_cost():
    curve = a_curve([400, 100, 200], [0.6, 0.2, 0.4])
    assert np.exp(curve.log_costs[0]) == pytest.approx([100, 200, 400])
    assert curve.accuracies[0] == pytest.approx([0.2, 0.4, 0.6])


def test_costs_between_points_are_interpolated_over_their_logarithm():
    curve = a_curve([100, 400, 6400], [0.2, 0.4, 0.6])
    assert cost_at(curve, 0.3) == pytest.approx(200)
    assert cost_at(curve, 0.4) == pytest.approx(400)
    assert cost_at(curve, 0.5) == pytest.approx(1600)


def test_above_a_curve_is_not_reached_and_below_it_costs_its_cheapest_point():
    curve = a_curve([100, 400], [0.2, 0.4])
    assert cost_at(curve, 0.41) == math.inf
    assert cost_at(curve, 0.1) == pytest.approx(100)


def test_a_plateau_is_reached_at_its_cheapest_point():
    assert cost_at(a_curve([100, 200, 400, 800], [0.2, 0.5, 0.5, 0.5]), 0.5) == pytest.approx(200)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (0.5, "ok"),
        (0.65, "not reached"),
        (0.9, "neither reaches it"),
        (0.35, "at most: above it at its lowest cost"),
        (0.1, "both are above it at their lowest cost"),
    ],
)
def test_the_status_says_whether_a_ratio_can_be_taken(target: float, status: str):
    ours, theirs = a_curve([50, 200], [0.4, 0.6]), a_curve([100, 800], [0.3, 0.7])
    found = at(ours, theirs, target)
    assert found.status == status
    assert math.isnan(found.ratio.value) == (status not in {"ok", "at most: above it at its lowest cost"})
    mirrored = at(theirs, ours, target)
    assert (mirrored.status == "only this one reaches it") == (status == "not reached")
    assert mirrored.status.startswith("at least") == status.startswith("at most")


def test_what_is_not_reached_has_an_infinite_cost_and_no_number_in_json():
    found = at(a_curve([50, 200], [0.4, 0.6]), a_curve([100, 800], [0.3, 0.7]), 0.65)
    assert found.our_cost == math.inf
    assert found.to_json()["our_cost"] is None
    assert found.to_json()["ratio"] == {"mean": None, "low": None, "high": None}


def test_half_the_cost_everywhere_is_a_ratio_of_a_half():
    costs, accuracies = [100.0, 200.0, 400.0, 800.0], [0.2, 0.4, 0.5, 0.55]
    ours, theirs = a_curve([cost / 2 for cost in costs], accuracies), a_curve(costs, accuracies)
    found = mean_ratio_over_overlap(ours, theirs, num_problems=10)
    assert tuple(found.ratio) == pytest.approx((0.5, 0.5, 0.5))
    assert found.accuracies == pytest.approx((0.2, 0.55))


def test_single_points_compare_where_they_are_equally_accurate_and_nowhere_else():
    low, high = a_curve([100], [0.4]), a_curve([300], [0.4])
    assert mean_ratio_over_overlap(low, high, num_problems=10).ratio.value == pytest.approx(1 / 3)
    above = mean_ratio_over_overlap(a_curve([300], [0.5]), low, num_problems=10)
    assert above.status == "no accuracy in common: always above the baseline"
    assert math.isnan(above.ratio.value)
    below = mean_ratio_over_overlap(low, a_curve([300], [0.5]), num_problems=10)
    assert below.status == "no accuracy in common: never as high as the baseline"
    assert below.accuracies is None


def test_one_problem_bounds_no_ratio():
    curve = a_curve([100, 200], [0.0, 1.0])
    found = mean_ratio_over_overlap(curve, curve, num_problems=1)
    assert tuple(found.ratio) == (1.0, 0.0, math.inf)


def test_resamples_without_an_overlap_unbound_the_interval():
    ours = Points(np.log([[100.0, 200.0]] * 40), np.array([[0.4, 0.6]] * 20 + [[0.7, 0.8]] * 20))
    theirs = Points(np.log([[100.0, 200.0]] * 40), np.array([[0.4, 0.6]] * 40))
    assert tuple(mean_ratio_over_overlap(ours, theirs, num_problems=40).ratio) == (1.0, 0.0, math.inf)


def test_intervals_of_a_ratio_cover_the_truth_on_noisy_curves():
    """Statistic: how many of 60 simulations have the truth in their 95% interval; below 50 has probability 0.1%."""
    rng = np.random.default_rng(9)
    work = np.array([1.0, 2.0, 4.0, 8.0])
    hits = 0
    for run in range(60):
        chances = 1 - (1 - 0.5 * rng.beta(1, 1, 150)[:, None]) ** work
        curves = [
            (price * work * rng.lognormal(0, 0.2, (150, 4)), (rng.random((150, 4)) < chances).astype(float))
            for price in (0.5, 1.0)
        ]
        ours, theirs = resampled_curves(curves, seed=run, num_resamples=200)
        ratio = mean_ratio_over_overlap(ours, theirs, num_problems=150).ratio
        hits += ratio.low <= 0.5 <= ratio.high
    assert hits >= 50
