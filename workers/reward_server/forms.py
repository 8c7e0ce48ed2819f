"""What reward servers have in common, whatever they are asked and answer: one method, and numbers that are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from orchestrator.engine import Prompt, StepRewards

ROUNDING = 1e-3
"""Probabilities this little outside [0, 1] come from 16-bit arithmetic and are clipped."""


class Form(Protocol):
    """A way to ask a server for rewards."""

    async def rewards(self, prompt: Prompt, steps: Sequence[str], num_known: int) -> StepRewards:
        """Rewards of ``steps[num_known:]``, at least one, each in [0, 1]; see `orchestrator.engine.RewardsSteps`."""
        ...


def as_number(value: Any) -> float | None:  # Any: JSON value
    """A finite number; None for anything else, also for true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_probability(value: Any) -> float | None:  # Any: JSON value
    """A number in [0, 1]; None for anything else."""
    number = as_number(value)
    if number is None or not -ROUNDING <= number <= 1 + ROUNDING:
        return None
    return min(1.0, max(0.0, number))
