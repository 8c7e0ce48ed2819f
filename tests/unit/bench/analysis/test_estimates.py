"""Estimates: intervals cover what they promise, problems are the unit, and degenerate cases say what is not known."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.analysis.estimates import (
    DIFFERENCES,
    SHARES,
    Estimate,
    half_widths,
    interval,
    mean_estimate,
    mean_ratio,
    paired_difference,
    pass_at,
    resampled_means,
)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(num_samples: int, data: st.DataObject):
    num_right, k = data.draw(st.integers(0, num_samples)), data.draw(st.integers(1, num_samples))
    subsets = list(combinations(range(num_samples), k))
    share = sum(any(index < num_right for index in subset) for subset in subsets) / len(subsets)
    assert pass_at(k, num_samples, num_right) == pytest.approx(share)


@pytest.mark.parametrize(("num_problems", "num_seeds", "mean"), [(12, 1, 0.4), (40, 4, 0.35), (150, 2, 0.8)])
def test_95_percent_intervals_cover_the_truth_about_as_often(num_problems: int, num_seeds: int, mean: float):
    """Statistic: share of 400 simulations whose interval holds the truth; its standard error is 1.1 points.

    Bounds four standard errors below 95%, and above it: too wide is a fault as well.
    """
    rng = np.random.default_rng(7)
    hits = 0
    for run in range(400):
        difficulties = rng.beta(mean, 1 - mean, num_problems)
        shares = rng.binomial(num_seeds, difficulties) / num_seeds
        estimate = mean_estimate(shares, bounds=SHARES, seed=run, num_resamples=200)
        hits += estimate.low <= mean <= estimate.high
    assert 0.905 <= hits / 400 <= 0.995


def test_seeds_of_a_problem_are_no_new_problems():
    """Copies of the same answers must not make the interval narrower, as resampling of jobs would."""
    answers = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    once = mean_estimate(answers, bounds=SHARES)
    copies = mean_estimate(np.stack([answers, answers]).mean(axis=0), bounds=SHARES)
    as_if_new = mean_estimate(np.concatenate([answers, answers]), bounds=SHARES)
    assert copies == once
    assert as_if_new.half_width < 0.8 * once.half_width


def test_all_right_and_all_wrong_have_the_intervals_of_wilson():
    z2 = 1.959964**2
    for count in (1, 10, 300):
        right, wrong = (mean_estimate([value] * count, bounds=SHARES) for value in (1.0, 0.0))
        assert right == pytest.approx((1.0, count / (count + z2), 1.0))
        assert wrong == pytest.approx((0.0, 0.0, z2 / (count + z2)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_an_interval_of_a_share_holds_its_mean_and_stays_between_0_and_1(values: list[float]):
    estimate = mean_estimate(values, bounds=SHARES, num_resamples=50)
    assert 0 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1
    assert estimate.half_width > 0


def test_one_problem_says_nothing_of_the_cost_of_others():
    assert mean_estimate([120.0]) == (120.0, -math.inf, math.inf)
    assert mean_estimate([120.0]).to_json() == {"mean": 120.0, "low": None, "high": None}
    assert mean_ratio([2.0], [1.0]) == (2.0, 0.0, math.inf)


def test_the_dictionary_form_is_rounded_and_read_back():
    found = interval([0.0, 1.0, 1.0, 0.5])
    assert set(found) == {"mean", "low", "high"}
    assert found["mean"] == 0.625
    assert Estimate.from_json(found).low == found["low"] <= found["mean"] <= found["high"]
    assert interval([100.0, 300.0])["high"] <= 300.0


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf], [[0.5]]])
def test_values_that_are_no_numbers_of_problems_are_refused(values: list[float]):
    with pytest.raises(ValueError, match=r"problem|finite"):
        mean_estimate(values)


def test_equal_seeds_draw_equally_and_columns_share_the_draw():
    values = np.random.default_rng(1).random(30)
    assert (resampled_means(values, seed=3) == resampled_means(values, seed=3)).all()
    assert (resampled_means(values, seed=3) != resampled_means(values, seed=4)).any()
    both = resampled_means(np.stack([values, 2 * values], axis=1))
    assert both[:, 1] == pytest.approx(2 * both[:, 0])


def test_the_spread_of_resampled_means_is_the_standard_error_without_bias():
    """Statistic: ratio of standard deviations over 20,000 draws; its standard error is 0.5%."""
    values = np.random.default_rng(2).random(8)
    means = resampled_means(values, num_resamples=20_000)
    assert means.std() / (values.std(ddof=1) / math.sqrt(8)) == pytest.approx(1.0, abs=0.02)


def test_many_problems_are_resampled_in_blocks_to_the_same_law():
    values = np.random.default_rng(3).random(3000)
    means = resampled_means(values, num_resamples=1000)
    assert means.shape == (1000,)
    assert means.std() == pytest.approx(values.std(ddof=1) / math.sqrt(3000), rel=0.1)
    assert len(set(means[:5])) == 5


def test_pairing_narrows_the_interval_where_problems_differ_in_difficulty():
    rng = np.random.default_rng(4)
    difficulties = rng.beta(0.3, 0.3, 200)
    ours, theirs = (
        (rng.random((4, 200)) < difficulties).mean(axis=0),
        (rng.random((4, 200)) < difficulties).mean(axis=0),
    )
    paired = paired_difference(ours, theirs).estimate.half_width
    unpaired = math.hypot(*(mean_estimate(values, bounds=SHARES).half_width for values in (ours, theirs)))
    assert paired < 0.6 * unpaired


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1.0] * 80 + [0.0] * 20, [1.0] * 40 + [0.0] * 60, "better"),
        ([1.0] * 40 + [0.0] * 60, [1.0] * 80 + [0.0] * 20, "worse"),
        ([1.0, 0.0] * 50, [0.0, 1.0] * 50, "undecided"),
        ([0.5] * 400, [0.5] * 400, "not worse (margin 0.02)"),
        ([0.5] * 20, [0.5] * 20, "undecided"),
        ([0.5] * 1990 + [0.0] * 10, [0.5] * 2000, "worse, by less than 0.02"),
        ([], [], "no common problems"),
    ],
)
def test_the_verdict_says_what_the_intervals_allow(ours: list[float], theirs: list[float], verdict: str):
    difference = paired_difference(ours, theirs)
    assert difference.verdict == verdict
    assert difference.num_problems == len(ours)


def test_the_one_sided_bound_errs_in_5_percent_of_cases():
    """Statistic: share of 400 simulations whose bound is above the true difference; standard error 1.1 points."""
    rng = np.random.default_rng(5)
    misses = 0
    for run in range(400):
        difficulties = rng.beta(1, 1, 60)
        ours, theirs = rng.binomial(2, difficulties) / 2, rng.binomial(2, difficulties) / 2
        misses += paired_difference(ours, theirs, seed=run, num_resamples=200).worst > 0
    assert 0.01 <= misses / 400 <= 0.095


def test_equal_answers_on_few_problems_leave_room_for_a_difference():
    difference = paired_difference([1.0, 0.0] * 5, [1.0, 0.0] * 5)
    assert difference.estimate.value == 0
    assert difference.estimate.high == -difference.estimate.low > 0.2
    assert mean_estimate([-1.0] * 10, bounds=DIFFERENCES).low == -1.0


def test_a_ratio_of_costs_is_found_again_and_pairing_helps():
    rng = np.random.default_rng(6)
    base = rng.lognormal(5, 1, 150)
    paired = mean_ratio(base * rng.uniform(0.45, 0.55, 150), base)
    assert paired.low < 0.5 < paired.high
    assert paired.half_width < 0.02
    assert mean_ratio(rng.permutation(base) / 2, base).half_width > 5 * paired.half_width


def test_ratios_to_nothing_are_unbounded_or_undefined():
    assert mean_ratio([1.0, 2.0], [0.0, 0.0]).value == math.inf
    nothing = mean_ratio([0.0, 0.0], [0.0, 0.0])
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0.0, math.inf)
    sometimes = mean_ratio([1.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    assert sometimes.high == math.inf


def test_half_widths_fall_with_the_root_of_the_number_of_problems():
    shares = np.random.default_rng(8).random(120)
    widths = half_widths(shares, (30, 120, 480))
    assert widths[120] == pytest.approx(mean_estimate(shares, bounds=SHARES).half_width)
    assert widths[30] / widths[120] == pytest.approx(2.0, rel=0.15)
    assert widths[120] / widths[480] == pytest.approx(2.0, rel=0.15)
    assert half_widths([5.0, 6.0], (1,), bounds=None) == {1: math.inf}
