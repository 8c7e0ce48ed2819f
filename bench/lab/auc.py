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


def auc_within(scores: Sequence[float], labels: Sequence[bool], groups: Sequence[int]) -> float:
    """Mean AUC inside groups, each weighted by how many pairs of its own it could fill (its rarer label's count).

    With a step's place in its solution as the group this is what a choice among rivals needs: knowing that late steps
    are wrong more often raises the plain AUC and helps no search.
    """
    total, weights = 0.0, 0
    for group in sorted(set(groups)):
        chosen = [index for index, own in enumerate(groups) if own == group]
        is_good = [labels[index] for index in chosen]
        weight = min(sum(is_good), len(is_good) - sum(is_good))
        if weight:
            total += weight * auc([scores[index] for index in chosen], is_good)
            weights += weight
    return total / weights if weights else float("nan")
