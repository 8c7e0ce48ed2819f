"""Weights of particles, and how often each is drawn when the population is renewed in proportion to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Resampling = Literal["multinomial", "systematic"]

LEAST_DOUBT = 1e-7
"""Rewards are taken to be at least this far from 0 and 1, where their logit is infinite; as in its_hub, the code of
Puri et al., 2025 (arXiv:2502.01618)."""


def reward_weights(rewards: Sequence[float], temperature: float) -> list[float]:
    """The softmax of logit(reward) / temperature.

    Args:
        rewards: In [0, 1]; at least one.
        temperature: Above 0; low ones favour the best.
    """
    clipped = [min(max(reward, LEAST_DOUBT), 1 - LEAST_DOUBT) for reward in rewards]
    logits = [(math.log(reward) - math.log1p(-reward)) / temperature for reward in clipped]
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def effective_sample_size(weights: Sequence[float]) -> float:
    """How many equally weighted particles would tell as much: 1 / sum w^2, from 1 to their number.

    Args:
        weights: At least one; they add up to 1.
    """
    return 1 / math.fsum(weight * weight for weight in weights)


def drawn_copies(weights: Sequence[float], num_draws: int, rng: np.random.Generator, how: Resampling) -> list[int]:
    """How often each particle is drawn; in all ``num_draws`` times, and num_draws * w times in expectation.

    Multinomial draws are independent of one another. Systematic ones are the points u, u + 1, u + 2, ... of one
    uniform u in [0, 1) on the stacked weights: every count is num_draws * w rounded down or up, which adds the least
    noise (Kitagawa, 1996).

    Args:
        weights: They add up to 1.
        num_draws: At least 0.
        rng: Takes one uniform number for systematic draws.
        how: See above.
    """
    if how == "multinomial":
        return [int(count) for count in rng.multinomial(num_draws, weights)]
    offset = rng.random()
    edges = [min(math.ceil(edge * num_draws - offset), num_draws) for edge in accumulate(weights)]
    edges[-1] = num_draws  # whatever rounding has made of the sum
    return [upper - lower for lower, upper in pairwise([0, *edges])]
