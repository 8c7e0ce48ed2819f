"""How long a replica takes for one step of its batch: the roofline of an accelerator, or lines fitted to a real one.

A step writes one token for each of n sequences, which read c tokens of context in all, and reads p tokens of prompts,
whose attention takes a pairs of tokens. Its time is overhead + max(compute, memory) + extra(n), where

* compute = (2 P (n + p) + 4 H (c + a)) / FLOPs per second   (Kinetics' compute, as `orchestrator.cost` counts it)
* memory = (weights read once + KV bytes of c) / bytes per second   (Kinetics' memory, with the weights it leaves out)

and both are kept as planes over (n, c, p, a), so that fitted ones have the same form.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from orchestrator.cost import ModelCost
from orchestrator.errors import InvalidRequest

_BYTES_PER_PARAMETER = 2.0


@dataclass(frozen=True, slots=True)
class Plane:
    """Seconds that are linear in what a step does.

    Attributes:
        fixed_s: For the step.
        sequence_s: For each sequence that writes a token.
        context_s: For each token of context that those sequences read.
        prompt_s: For each token of a prompt.
        pair_s: For each pair of a prompt token and one that it attends to.
    """

    fixed_s: float = 0.0
    sequence_s: float = 0.0
    context_s: float = 0.0
    prompt_s: float = 0.0
    pair_s: float = 0.0

    def seconds(self, num_sequences: int, context: float, prompt_tokens: int = 0, pairs: float = 0.0) -> float:
        """Of one step."""
        return (
            self.fixed_s
            + self.sequence_s * num_sequences
            + self.context_s * context
            + self.prompt_s * prompt_tokens
            + self.pair_s * pairs
        )


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a model can use of an accelerator: peak figures times the share of them that is reached.

    Attributes:
        flops_per_s: Dense FLOPs per second in the model's precision.
        bytes_per_s: Of its memory.
    """

    flops_per_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        for name in ("flops_per_s", "bytes_per_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidRequest(f"{name} must be above 0", field=name, value=getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of a step: ``overhead_s`` + max(compute, memory) + what the batch size adds.

    Attributes:
        overhead_s: Launching, scheduling, sampling: what every step costs.
        compute: Time to calculate.
        memory: Time to move weights and KV.
        by_batch: Points (sequences, seconds), ascending, for what is not linear in the batch size; between them
            interpolated, beyond them extended along the last segment. Empty for nothing.
    """

    overhead_s: float = 0.0
    compute: Plane = Plane()
    memory: Plane = Plane()
    by_batch: tuple[tuple[int, float], ...] = ()

    @classmethod
    def idealised(
        cls,
        model: ModelCost,
        accelerator: Accelerator,
        *,
        overhead_s: float = 0.0,
        bytes_per_parameter: float = _BYTES_PER_PARAMETER,
    ) -> Self:
        """The roofline of a model on an accelerator.

        Args:
            model: Its parameters and shape; all of its parameters are read in each step.
            accelerator: What it can use of one, or of several that share its weights (tensor parallel).
            overhead_s: Per step.
            bytes_per_parameter: 2 for 16-bit weights.
        """
        flops, moved = accelerator.flops_per_s, accelerator.bytes_per_s
        token_s, pair_s = 2 * model.parameters / flops, 4 * model.attention_width / flops
        return cls(
            overhead_s=overhead_s,
            compute=Plane(sequence_s=token_s, context_s=pair_s, prompt_s=token_s, pair_s=pair_s),
            memory=Plane(
                fixed_s=model.parameters * bytes_per_parameter / moved, context_s=model.kv_bytes_per_token / moved
            ),
        )

    @classmethod
    def fitted(cls, steps: Sequence[MeasuredStep]) -> Self:
        """The plane nearest to measured steps (least squares of relative errors, no negative coefficient).

        Raises:
            InvalidRequest: There are no measurements.
        """
        from scipy.optimize import nnls

        if not steps:
            raise InvalidRequest("a fit needs measured steps", field="steps", value=0)
        rows = np.array([[1.0, one.num_sequences, one.context, one.prompt_tokens] for one in steps])
        seconds = np.array([one.seconds for one in steps])
        coefficients, _ = nnls(rows / seconds[:, None], np.ones(len(steps)))
        fixed_s, sequence_s, context_s, prompt_s = map(float, coefficients)
        return cls(overhead_s=fixed_s, compute=Plane(sequence_s=sequence_s, context_s=context_s, prompt_s=prompt_s))

    def seconds(self, num_sequences: int, context: float = 0.0, prompt_tokens: int = 0, pairs: float = 0.0) -> float:
        """Of one step."""
        work = (num_sequences, context, prompt_tokens, pairs)
        return self.fixed(num_sequences) + max(self.compute.seconds(*work), self.memory.seconds(*work))

    def fixed(self, num_sequences: int) -> float:
        """What a step takes besides calculating and moving."""
        return self.overhead_s + (_interpolated(self.by_batch, num_sequences) if self.by_batch else 0.0)

    def run(
        self, num_steps: int, num_sequences: int, context: float, prompt_tokens: int = 0, pairs: float = 0.0
    ) -> float:
        """Seconds of ``num_steps`` steps of the same batch, whose context grows by ``num_sequences`` tokens a step.

        Each plane is linear in the number of the step, so their maximum changes sides at most once, and each side's
        sum is that of an arithmetic series.
        """
        compute, memory = self.compute, self.memory
        first = compute.seconds(num_sequences, context, prompt_tokens, pairs)
        other = memory.seconds(num_sequences, context, prompt_tokens, pairs)
        slope, other_slope = compute.context_s * num_sequences, memory.context_s * num_sequences
        if other > first or (other == first and other_slope > slope):
            first, other, slope, other_slope = other, first, other_slope, slope
        seconds = num_steps * self.fixed(num_sequences)
        if other_slope > slope:
            change = int((first - other) / (other_slope - slope)) + 1  # the first step in which the other one is longer
            if change < num_steps:
                rest = num_steps - change
                return (
                    seconds + _series(first, slope, change) + _series(other + change * other_slope, other_slope, rest)
                )
        return seconds + _series(first, slope, num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """One kind of step as measured: see `StepTime` for the letters."""

    num_sequences: int
    context: float
    prompt_tokens: float
    seconds: float


def _series(first: float, slope: float, count: int) -> float:
    """The sum of ``count`` terms: first, first + slope, ..."""
    return count * (first + slope * (count - 1) / 2)


def _interpolated(points: tuple[tuple[int, float], ...], x: int) -> float:
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    upper = min(bisect.bisect_left(points, (x, -math.inf)), len(points) - 1)
    (left, low), (right, high) = points[upper - 1], points[upper]
    return low + (high - low) * (x - left) / (right - left)
