"""The next tokens of a whole batch: each sample by its own settings and its own random stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from orchestrator.sampling import GREEDY, Sampling
from orchestrator.workers.llama_cpp.choosing import choose
from orchestrator.workers.llama_cpp.sampler import FloatMatrix, FloatRow

VOCABULARY = 300


@dataclass
class Allowing:
    """Allows some tokens."""

    tokens: frozenset[int]

    def choose(self, token: int, logits: FloatRow, draw: Callable[[FloatRow], int]) -> int | None:
        if not self.tokens:
            return None
        if token in self.tokens:
            return token
        masked = np.full_like(logits, -np.inf)
        masked[list(self.tokens)] = logits[list(self.tokens)]
        return draw(masked)


class Sample:
    def __init__(
        self, seed: int, sampling: Sampling | None = None, *, num_top: int = 0, guard: Allowing | None = None
    ) -> None:
        self.random = Random(seed)
        self.sampling = sampling or Sampling(temperature=1.0)
        self.num_top = num_top
        self.guard = guard


def rows(count: int, seed: int = 1) -> FloatMatrix:
    return np.random.default_rng(seed).normal(0, 2, (count, VOCABULARY)).astype(np.float32)


def mixed() -> list[Sample]:
    return [
        Sample(1),
        Sample(2, Sampling(temperature=0.7, top_k=5), num_top=3),
        Sample(3, GREEDY),
        Sample(4, num_top=1),
        Sample(5, guard=Allowing(frozenset({7, 8}))),
        Sample(6, Sampling(temperature=0.7, top_k=5)),
    ]


def test_a_sample_gets_the_same_token_alone_as_among_others() -> None:
    logits = rows(6)
    together = choose(mixed(), logits)
    alone = [choose([sample], logits[row : row + 1])[0] for row, sample in enumerate(mixed())]
    assert [choice.token for choice in together] == [choice.token for choice in alone]
    assert [choice.top and choice.top.tokens for choice in together] == [
        choice.top and choice.top.tokens for choice in alone
    ]


def test_likeliest_tokens_come_with_those_that_asked_and_as_many_as_they_asked() -> None:
    logits = rows(6)
    choices = choose(mixed(), logits)
    assert [len(choice.top.tokens) if choice.top else 0 for choice in choices] == [0, 3, 0, 1, 0, 0]
    top = choices[1].top
    assert top is not None
    assert top.tokens == tuple(np.argsort(-logits[1])[:3])
    exact = logits[1].astype(np.float64) - np.log(np.exp(logits[1].astype(np.float64)).sum())
    assert top.chosen == pytest.approx(exact[choices[1].token], abs=1e-5)


def test_a_guard_replaces_what_it_forbids_and_leaves_other_samples_alone() -> None:
    logits = rows(40)
    samples = [Sample(seed, guard=Allowing(frozenset({7, 8})) if seed % 2 else None) for seed in range(40)]
    free = choose([Sample(seed) for seed in range(40)], logits)
    guarded = choose(samples, logits)
    assert {choice.token for choice in guarded[1::2]} == {7, 8}
    assert [choice.token for choice in guarded[::2]] == [choice.token for choice in free[::2]]


def test_a_sample_whose_guard_allows_nothing_gets_no_token() -> None:
    choices = choose([Sample(1, guard=Allowing(frozenset()), num_top=2), Sample(2)], rows(2))
    assert choices[0].token is None
    assert choices[1].token is not None
