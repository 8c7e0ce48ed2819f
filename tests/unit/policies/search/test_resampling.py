"""Weights of particles, and the statistics of how they are drawn."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.policies.search.resampling import (
    Resampling,
    drawn_copies,
    effective_sample_size,
    reward_weights,
)

ERROR_RATE = 1e-6
"""Of each statistical test below: how often it would fail though the draws are right."""

REWARDS = st.lists(st.floats(0, 1), min_size=1, max_size=30)
TEMPERATURES = st.floats(1e-3, 100)


class TestWeights:
    def test_they_are_the_odds_at_temperature_1(self):
        odds = [0.9 / 0.1, 0.5 / 0.5, 0.2 / 0.8]
        assert reward_weights([0.9, 0.5, 0.2], 1.0) == pytest.approx([value / sum(odds) for value in odds])

    def test_a_temperature_takes_the_root_of_the_odds(self):
        odds = [math.sqrt(9), 1.0]
        assert reward_weights([0.9, 0.5], 2.0) == pytest.approx([value / sum(odds) for value in odds])

    @given(rewards=REWARDS, temperature=TEMPERATURES)
    def test_they_add_up_to_1_and_follow_the_order_of_the_rewards(self, rewards: list[float], temperature: float):
        weights = reward_weights(rewards, temperature)
        assert math.fsum(weights) == pytest.approx(1)
        ordered = [weight for _, weight in sorted(zip(rewards, weights, strict=True))]
        assert all(low <= high for low, high in pairwise(ordered))

    def test_rewards_of_0_and_1_are_very_unlikely_and_very_likely_but_no_more(self):
        weights = reward_weights([0.0, 1.0, 0.5], 1.0)
        assert 0 < weights[0] < 1e-13
        assert 1 - 1e-6 < weights[1] < 1

    def test_equal_rewards_weigh_alike(self):
        assert reward_weights([1.0, 1.0], 0.01) == [0.5, 0.5]
        assert reward_weights([0.0] * 4, 0.01) == [0.25] * 4


class TestEffectiveSampleSize:
    def test_equal_weights_count_fully_and_a_single_one_as_one(self):
        assert effective_sample_size([0.25] * 4) == pytest.approx(4)
        assert effective_sample_size([0.0, 1.0, 0.0]) == pytest.approx(1)
        assert effective_sample_size([0.5, 0.25, 0.25]) == pytest.approx(8 / 3)

    @given(rewards=REWARDS, temperature=TEMPERATURES)
    def test_it_lies_between_1_and_the_number_of_particles(self, rewards: list[float], temperature: float):
        size = effective_sample_size(reward_weights(rewards, temperature))
        assert 1 - 1e-9 <= size <= len(rewards) + 1e-9


@pytest.mark.parametrize("how", ["multinomial", "systematic"])
class TestDraws:
    @given(rewards=REWARDS, temperature=TEMPERATURES, num_draws=st.integers(0, 60), seed=st.integers(0, 99))
    def test_as_many_are_drawn_as_were_asked_for(
        self, how: Resampling, rewards: list[float], temperature: float, num_draws: int, seed: int
    ):
        weights = reward_weights(rewards, temperature)
        copies = drawn_copies(weights, num_draws, np.random.default_rng(seed), how)
        assert sum(copies) == num_draws
        assert min(copies) >= 0
        assert len(copies) == len(rewards)

    def test_a_particle_of_no_weight_is_not_drawn(self, how: Resampling):
        rng = np.random.default_rng(0)
        assert all(drawn_copies([0.5, 0.0, 0.5], 8, rng, how)[1] == 0 for _ in range(100))

    def test_equal_seeds_draw_alike(self, how: Resampling):
        draws = [drawn_copies([0.2, 0.3, 0.5], 9, np.random.default_rng(3), how) for _ in range(2)]
        assert draws[0] == draws[1]

    def test_expected_copies_are_in_proportion_to_the_weights(self, how: Resampling):
        # Exact binomial bounds on the mean: a count of one draw is at most 1 away from any other, or binomial itself.
        weights, num_draws, num_rounds = [0.45, 0.3, 0.15, 0.1], 5, 4000
        rng = np.random.default_rng(11)
        totals = np.sum([drawn_copies(weights, num_draws, rng, how) for _ in range(num_rounds)], axis=0)
        for weight, total in zip(weights, totals, strict=True):
            certain = 0 if how == "multinomial" else math.floor(num_draws * weight + 1e-12)
            trials = num_rounds * num_draws if how == "multinomial" else num_rounds
            chance = weight if how == "multinomial" else num_draws * weight - certain
            low, high = stats.binom.interval(1 - ERROR_RATE / len(weights), trials, max(chance, 0.0))
            assert low <= total - certain * num_rounds <= high


def test_multinomial_counts_have_the_multinomial_distribution():
    # Pearson's chi-square over the 6 ways to draw 2 of 3 with replacement.
    weights, num_rounds = [0.5, 0.3, 0.2], 6000
    rng = np.random.default_rng(5)
    drawn = [tuple(drawn_copies(weights, 2, rng, "multinomial")) for _ in range(num_rounds)]
    outcomes = [(a, b, 2 - a - b) for a in range(3) for b in range(3 - a)]
    expected = [num_rounds * stats.multinomial.pmf(outcome, 2, weights) for outcome in outcomes]
    observed = [drawn.count(outcome) for outcome in outcomes]
    assert stats.chisquare(observed, expected).pvalue > ERROR_RATE


@given(rewards=REWARDS, temperature=TEMPERATURES, num_draws=st.integers(0, 60), seed=st.integers(0, 99))
def test_systematic_copies_are_the_expected_number_rounded_down_or_up(
    rewards: list[float], temperature: float, num_draws: int, seed: int
):
    weights = reward_weights(rewards, temperature)
    copies = drawn_copies(weights, num_draws, np.random.default_rng(seed), "systematic")
    assert all(abs(count - num_draws * weight) < 1 + 1e-9 for count, weight in zip(copies, weights, strict=True))


def test_systematic_draws_survive_weights_whose_sum_is_rounded():
    class Late:
        def random(self) -> float:
            return math.nextafter(1, 0)

    assert sum([0.1] * 10) < 1
    assert sum(drawn_copies([0.1] * 10, 10, Late(), "systematic")) == 10


def test_systematic_draws_vary_less_than_multinomial_ones():
    weights, rng = [0.4, 0.35, 0.25], np.random.default_rng(2)
    spread = {
        how: np.var([drawn_copies(weights, 10, rng, how) for _ in range(500)], axis=0).sum()
        for how in ("multinomial", "systematic")
    }
    assert spread["systematic"] < spread["multinomial"] / 4
