"""Divides a width among trajectories in proportion to the softmax of their rewards (REBASE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate


def balanced_shares(rewards: Sequence[float], width: int, temperature: float) -> list[int]:
    """How many samples each trajectory gets, in the order given; they add up to ``width``.

    From the best reward down, each takes ceil(w E_i / S) of what is left of the width, with E_i = exp(r_i / T) and
    S the sum over those still to come (Wu et al., 2024, arXiv:2408.00724), so the worst may get nothing. Rewards
    (.9, .5, .1, .85) share a width of 16 at T = 0.2 as (9, 1, 0, 6).

    Args:
        rewards: In [0, 1].
        width: At least 0.
        temperature: Above 0; low ones favour the best.
    """
    if not rewards:
        return []
    top = max(rewards)
    weights = [math.exp((reward - top) / temperature) for reward in rewards]
    order = sorted(range(len(rewards)), key=lambda index: -rewards[index])  # stable
    sums = list(accumulate(weights[index] for index in reversed(order)))
    shares = [0] * len(rewards)
    for index, total in zip(order, reversed(sums), strict=True):
        # A hair less than the quotient, so that 3 of 3 equal weights is 1 and not 2.
        shares[index] = math.ceil(width * weights[index] / total * (1 - 1e-12)) if total > 0 else 0
        width -= shares[index]
    return shares
