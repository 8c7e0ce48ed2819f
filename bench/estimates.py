"""Estimates that benchmarks share: pass@k without bias, and bootstrap intervals over problems."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import comb

_RESAMPLES = 1000


def pass_at(k: int, num_samples: int, num_right: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (Chen et al., 2021)."""
    return 1.0 - comb(num_samples - num_right, k) / comb(num_samples, k)


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean with a 95% bootstrap interval."""
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(_RESAMPLES))
    return {
        "mean": round(sum(values) / len(values), 4),
        "low": round(means[int(0.025 * _RESAMPLES)], 4),
        "high": round(means[int(0.975 * _RESAMPLES)], 4),
    }
