"""Token choice against its definition, written out slowly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from orchestrator.sampling import Sampling
from orchestrator.workers.llama_cpp.sampler import TokenSampler, log_normaliser, top_indices, top_tokens


def defined_probabilities(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.float64]:
    """Top-k, top-p, min-p, temperature, by sorting everything."""
    scores = logits.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = np.exp(scores[order] - scores[order[0]])
    weights /= weights.sum()
    if sampling.top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(weights), sampling.top_p)) + 1]
        weights = weights[: len(order)]
    order = order[weights >= sampling.min_p * weights[0]]
    powered = np.exp((scores[order] - scores[order[0]]) / sampling.temperature)
    probabilities = np.zeros(len(logits))
    probabilities[order] = powered / powered.sum()
    return probabilities


CASES = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.5),
    Sampling(temperature=1.5, min_p=0.02),
    Sampling(temperature=1.0, top_k=5),
    Sampling(temperature=0.8, top_p=0.7),
    Sampling(temperature=1.2, top_k=40, top_p=0.9, min_p=0.05),
]


@pytest.mark.parametrize("vocabulary", [7, 300, 1000])
@pytest.mark.parametrize("sampling", CASES, ids=str)
def test_drawn_tokens_follow_the_defined_distribution(sampling: Sampling, vocabulary: int) -> None:
    """Chi-square over 4000 draws at level 1e-4 per case: with 18 cases a false alarm in 1 of 550 seeds; seeds fixed."""
    logits = np.random.default_rng(vocabulary).normal(0, 2.5, vocabulary).astype(np.float32)
    expected = defined_probabilities(logits, sampling)
    sampler = TokenSampler(sampling, seed=11)
    draws = 4000
    counts = np.bincount([sampler.pick(logits) for _ in range(draws)], minlength=vocabulary)
    assert not counts[expected == 0].any(), "a token outside the truncation was drawn"
    is_common = expected * draws >= 5
    observed, wanted = list(counts[is_common]), list(expected[is_common] * draws)
    if (rest := draws - sum(wanted)) > 1e-6:
        observed.append(draws - sum(observed))
        wanted.append(rest)
    if len(wanted) > 1:
        assert stats.chisquare(observed, wanted).pvalue > 1e-4


@pytest.mark.parametrize("sampling", CASES, ids=str)
def test_forbidden_tokens_are_never_drawn(sampling: Sampling) -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 500, 998]] = [1.0, 0.5, 0.9]
    sampler = TokenSampler(sampling, seed=5)
    assert {sampler.pick(logits) for _ in range(300)} <= {3, 500, 998}


def test_greedy_takes_the_likeliest_and_needs_no_randomness() -> None:
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32)
    assert TokenSampler(Sampling(temperature=0), seed=1).pick(logits) == int(logits.argmax())


def test_equal_seeds_draw_equal_tokens_and_other_seeds_others() -> None:
    logits = np.random.default_rng(2).normal(size=500).astype(np.float32)

    def drawn(seed: int) -> list[int]:
        sampler = TokenSampler(Sampling(temperature=1.0), seed=seed)
        return [sampler.pick(logits) for _ in range(20)]

    assert drawn(7) == drawn(7) != drawn(8)


@pytest.mark.parametrize("count", [1, 5, 40, 999, 1000, 2000])
def test_top_indices_equal_a_full_sort(count: int) -> None:
    logits = np.random.default_rng(3).permutation(1000).astype(np.float32)
    assert top_indices(logits, count).tolist() == np.argsort(-logits)[:count].tolist()


def test_log_probabilities_are_those_of_the_softmax() -> None:
    logits = np.random.default_rng(4).normal(0, 3, 2000).astype(np.float32)
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    found = top_tokens(logits, 17, 5)
    assert found.chosen == pytest.approx(exact[17], abs=1e-5)
    assert found.tokens == tuple(np.argsort(-exact)[:5])
    assert found.logprobs == pytest.approx(sorted(exact, reverse=True)[:5], abs=1e-5)
    assert log_normaliser(logits) == pytest.approx(np.log(np.exp(logits.astype(np.float64)).sum()), abs=1e-5)
