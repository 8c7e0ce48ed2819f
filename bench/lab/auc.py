"""How well scores tell good steps from bad ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under the ROC curve: the chance that a good step scores above a bad one, ties counting half."""
    values, is_good = np.asarray(scores), np.asarray(labels, bool)
    if is_good.all() or not is_good.any():
        return float("nan")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    good, bad = int(is_good.sum()), int((~is_good).sum())
    return float((ranks[inverse][is_good].sum() - good * (good + 1) / 2) / (good * bad))
