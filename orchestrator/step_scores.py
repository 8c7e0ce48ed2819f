"""Steps of a written solution, and how the scores of its steps make one score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

STEP_DELIMITER = "\n\n"
"""What ends a step unless a policy or verifier is told otherwise: a blank line."""

Aggregation = Literal["last", "min", "mean", "product"]

_AGGREGATIONS: Mapping[Aggregation, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "product": math.prod,
}


def aggregated(scores: Sequence[float], how: Aggregation) -> float:
    """One score of a solution from the scores of its steps, at least one, each in [0, 1].

    The last step's (Snell et al., 2024, arXiv:2408.03314), the smallest or the product (Lightman et al., 2023,
    arXiv:2305.20050), or the mean.
    """
    return _AGGREGATIONS[how](scores)


def split_steps(text: str, delimiter: str = STEP_DELIMITER) -> list[str]:
    """Pieces that make up the text when they are put together, each with the delimiter that ends it; none is blank."""
    steps: list[str] = []
    before = ""  # blank pieces at the very start belong to the first step
    for index, piece in enumerate(text.split(delimiter)):
        delimited = (delimiter if index else "") + ("" if piece.strip() else piece)
        if steps:
            steps[-1] += delimited
        else:
            before += delimited
        if piece.strip():
            steps.append(before + piece)
            before = ""
    return steps
