"""Posteriors of mean scores: their updates against closed forms, their draws and choices by statistics."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.policies.search.posteriors import PRIORS, BetaPosterior, GaussianPosterior, thompson_choice

SCORES = st.lists(st.floats(0, 1), max_size=20)


def learnt(posterior: Any, scores: list[float]) -> Any:
    for score in scores:
        posterior.add(score)
    return posterior


@given(scores=SCORES, m=st.floats(0, 1), kappa=st.floats(0.1, 5), nu=st.floats(0.1, 5), tau2=st.floats(0.01, 1))
def test_a_gaussian_learns_as_the_closed_form_says(scores: list[float], m: float, kappa: float, nu: float, tau2: float):
    posterior = learnt(GaussianPosterior(m, kappa, nu, tau2), scores)
    n = len(scores)
    mean = math.fsum(scores) / n if n else 0.0
    squares = math.fsum((score - mean) ** 2 for score in scores)
    assert posterior.kappa == pytest.approx(kappa + n)
    assert posterior.nu == pytest.approx(nu + n)
    assert posterior.m == pytest.approx((kappa * m + n * mean) / (kappa + n))
    spread = nu * tau2 + squares + n * kappa * (m - mean) ** 2 / (kappa + n)
    assert posterior.tau2 == pytest.approx(spread / (nu + n))


def test_a_gaussian_by_hand():
    posterior = learnt(GaussianPosterior(), [0.5, 1.0])
    assert (posterior.m, posterior.kappa, posterior.nu) == (0.5, 3, 3)
    assert posterior.tau2 == pytest.approx((0.1 + 0.125 + 2 * 0.75**2 / 3) / 3)


@given(scores=SCORES)
def test_a_beta_counts_parts_of_successes(scores: list[float]):
    posterior = learnt(BetaPosterior(), scores)
    assert posterior.successes == pytest.approx(0.5 + math.fsum(scores))
    assert posterior.failures == pytest.approx(0.5 + len(scores) - math.fsum(scores))


def test_draws_of_a_gaussian_have_the_distribution_of_a_mean_whose_variance_is_drawn_first():
    """Kolmogorov-Smirnov, 4,000 draws against 4,000 in two stages; a right program fails with a chance of 0.001."""
    posterior = learnt(GaussianPosterior(), [0.3, 0.9, 0.4])
    rng = np.random.default_rng(1)
    draws = [posterior.draw(rng) for _ in range(4000)]
    variances = stats.invgamma(posterior.nu / 2, scale=posterior.nu * posterior.tau2 / 2).rvs(4000, random_state=rng)
    two_stages = rng.normal(posterior.m, np.sqrt(variances / posterior.kappa))
    assert stats.ks_2samp(draws, two_stages).pvalue > 0.001


def test_draws_of_a_beta_have_its_distribution():
    """Kolmogorov-Smirnov, 4,000 draws; a right program fails with a chance of 0.001."""
    posterior = learnt(BetaPosterior(), [0.3, 0.9, 0.4])
    rng = np.random.default_rng(2)
    draws = [posterior.draw(rng) for _ in range(4000)]
    assert stats.kstest(draws, stats.beta(0.5 + 1.6, 0.5 + 1.4).cdf).pvalue > 0.001


@pytest.mark.parametrize("name", sorted(PRIORS))
def test_the_better_of_two_is_chosen_as_often_as_it_is_likely_to_be_the_best(name: Any):
    """The share of 4,000 choices against the same probability from 400,000 paired draws; binomial, 4.5 standard errors
    of the difference, so a right program fails with a chance below 1e-5.
    """
    posteriors = {"a": learnt(PRIORS[name](), [0.6, 0.7, 0.5]), "b": learnt(PRIORS[name](), [0.4, 0.5, 0.6])}
    if name == "beta":
        pairs = [stats.beta(post.successes, post.failures) for post in posteriors.values()]
    else:
        pairs = [stats.t(post.nu, post.m, math.sqrt(post.tau2 / post.kappa)) for post in posteriors.values()]
    first, second = (pair.rvs(400_000, random_state=seed) for seed, pair in enumerate(pairs))
    chance = float(np.mean(first > second))
    rng = np.random.default_rng(3)
    share = sum(thompson_choice(posteriors, rng) == "a" for _ in range(4000)) / 4000
    assert abs(share - chance) < 4.5 * math.sqrt(chance * (1 - chance) * (1 / 4000 + 1 / 400_000))
