"""Arrivals: Poisson processes have the statistics they claim, and lengths the mean and spread that were asked for."""

import random
import statistics

import pytest
from scipy import stats

from orchestrator.bench.load.arrivals import MAX_TOKENS, Arrival, Lengths, poisson, with_lengths
from orchestrator.errors import InvalidRequest


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]


def test_gaps_between_poisson_arrivals_are_exponential_and_independent():
    """Kolmogorov-Smirnov and a rank correlation of neighbours, each with an error rate of 1 in 1000 (seed fixed)."""
    found = gaps(list(poisson(4.0, seed=11, limit=4000)))
    assert stats.kstest(found, "expon", args=(0, 1 / 4.0)).pvalue > 1e-3
    assert stats.spearmanr(found[:-1], found[1:]).pvalue > 1e-3


def test_counts_of_poisson_arrivals_vary_as_much_as_their_mean():
    """Variance over mean of 1000 counts is chi-squared over its 999 degrees of freedom; error rate 1 in 1000."""
    counts = [0] * 1000
    for time_s in poisson(5.0, seed=3, duration_s=1000.0):
        counts[int(time_s)] += 1
    dispersion = statistics.variance(counts) / statistics.mean(counts)
    low, high = stats.chi2.ppf([0.0005, 0.9995], 999) / 999
    assert low < dispersion < high
    assert statistics.mean(counts) == pytest.approx(5.0, rel=0.05)


def test_the_same_seed_gives_the_same_times_and_another_one_does_not():
    assert list(poisson(2.0, seed=1, limit=20)) == list(poisson(2.0, seed=1, limit=20))
    assert list(poisson(2.0, seed=1, limit=20)) != list(poisson(2.0, seed=2, limit=20))


def test_duration_and_limit_both_end_the_arrivals():
    by_time = list(poisson(10.0, seed=0, duration_s=5.0))
    assert by_time[-1] < 5.0
    assert list(poisson(10.0, seed=0, duration_s=5.0, limit=7)) == by_time[:7]


def test_lognormal_lengths_have_the_mean_and_the_spread_asked_for():
    """The standard error of the mean of 20,000 draws is 0.35 % here; 5 % is far out."""
    rng = random.Random(5)
    drawn = [Lengths.parse("mean=300,cv=0.5", option="--x").draw(rng) for _ in range(20_000)]
    assert statistics.mean(drawn) == pytest.approx(300, rel=0.05)
    assert statistics.stdev(drawn) / statistics.mean(drawn) == pytest.approx(0.5, rel=0.05)
    assert stats.skew(drawn) > 1


def test_a_plain_number_is_a_fixed_length():
    assert {Lengths.parse("256", option="--x").draw(random.Random(0)) for _ in range(5)} == {256}


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "nan", "inf", "many", "cv=0.5", "mean=5,cv=-1", "mean=5,sd=2", "mean=x", str(MAX_TOKENS + 1)],
)
def test_lengths_that_make_no_sense_are_refused_by_option_and_value(text: str):
    with pytest.raises(InvalidRequest) as caught:
        Lengths.parse(text, option="--output-tokens")
    assert caught.value.field == "output_tokens"
    assert repr(text) in str(caught.value)


def test_drawn_lengths_replace_only_what_was_given_and_times_stay():
    planned = [Arrival(1.5, 700, 30, blocks=(1, 2)), Arrival(2.5, 40, 3)]
    outputs_only = list(with_lengths(planned, inputs=None, outputs=Lengths(9), seed=0))
    assert outputs_only == [Arrival(1.5, 700, 9, blocks=(1, 2)), Arrival(2.5, 40, 9)]
    inputs_only = list(with_lengths(planned, inputs=Lengths(9), outputs=None, seed=0))
    assert inputs_only == [Arrival(1.5, 9, 30), Arrival(2.5, 9, 3)]
