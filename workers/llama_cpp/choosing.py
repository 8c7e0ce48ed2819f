"""Chooses the next token of every sample of a batch in one step, and its log probabilities where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from random import Random
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from orchestrator.sampling import Sampling
from orchestrator.workers.llama_cpp.sampler import FloatMatrix, FloatRow, TopTokens, draw, top_tokens

_K = TypeVar("_K", bound=Hashable)


class Guard(Protocol):
    """What a sample may write."""

    def choose(self, token: int, logits: FloatRow, draw: Callable[[FloatRow], int]) -> int | None:
        """The next token, which was drawn freely or is drawn again; None if there is none."""
        ...


class Chooser(Protocol):
    """What of a sample decides its next token.

    Attributes:
        sampling: How to choose.
        random: Its own random stream; a token takes one number, and a second one if its guard forbids the first.
        num_top: How many of the likeliest tokens are wanted with each token.
    """

    sampling: Sampling
    random: Random
    num_top: int

    @property
    def guard(self) -> Guard | None:
        """What it may write; None for anything."""
        ...


class Choice(NamedTuple):
    """A sample's next token, None where its guard allows none; and the likeliest tokens if they are wanted."""

    token: int | None
    top: TopTokens | None


def choose(samples: Sequence[Chooser], logits: FloatMatrix) -> list[Choice]:
    """The next token of each sample, from logits [samples, vocabulary]."""
    drawn = np.zeros(len(samples), np.intp)
    for sampling, rows in _alike([sample.sampling for sample in samples]).items():
        drawn[rows] = draw(_at(rows, logits), sampling, [samples[row].random.random() for row in rows])
    tokens: list[int | None] = [*drawn.tolist()]
    for row, sample in enumerate(samples):
        if sample.guard is not None:
            tokens[row] = _guarded(sample, sample.guard, int(drawn[row]), logits[row])
    tops: list[TopTokens | None] = [None] * len(samples)
    for count, rows in _alike([sample.num_top for sample in samples]).items():
        if count:
            found = top_tokens(_at(rows, logits), [tokens[row] or 0 for row in rows], count)
            for row, top in zip(rows, found, strict=True):
                tops[row] = top
    return list(map(Choice, tokens, tops))


def _alike(keys: Sequence[_K]) -> dict[_K, list[int]]:
    """Rows with equal keys."""
    rows: dict[_K, list[int]] = {}
    for row, key in enumerate(keys):
        if row == 0 or key is not keys[row - 1]:  # samples of one request follow each other: hash their key once
            group = rows.setdefault(key, [])
        group.append(row)
    return rows


def _at(rows: Sequence[int], logits: FloatMatrix) -> FloatMatrix:
    return logits if len(rows) == len(logits) else logits[rows]


def _guarded(sample: Chooser, guard: Guard, token: int, logits: FloatRow) -> int | None:
    def draw_again(allowed: FloatRow) -> int:
        return int(draw(allowed[np.newaxis], sample.sampling, [sample.random.random()])[0])

    return guard.choose(token, logits, draw_again)
