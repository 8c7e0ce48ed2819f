"""How many tokens to draft, by load: where goodput is highest (SmartSpec, Liu et al., 2024, 2406.14066).

Goodput is emitted tokens per second of a step. With acceptance a, a request that drafts k tokens emits
(1 - a^(k + 1)) / (1 - a) of them; a step of n requests takes k steps of the draft model and one of the target, which
checks n (k + 1) tokens. The step times are idealised (`StepTimes`), so the table is where to begin, not a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.errors import InvalidRequest
from orchestrator.planning.throughput import StepTimes

MOST_TOKENS = 8


class Draft(NamedTuple):
    """While ``first`` to ``last`` sequences run, so many tokens are drafted; 0 for none."""

    first: int
    last: int
    tokens: int


def emitted(acceptance: float, tokens: int) -> float:
    """Tokens that a step emits for one request, on average: the sum of a^i for i = 0 .. k."""
    return sum(acceptance**i for i in range(tokens + 1))


def goodput(
    target: StepTimes, draft: StepTimes | None, *, batch: int, context: float, tokens: int, acceptance: float
) -> float:
    """Tokens per second of ``batch`` requests that draft ``tokens`` each; a draft of None costs nothing (n-grams)."""
    step_s = float(target.forward_s(batch * (tokens + 1.0), read_tokens=batch * context))
    if draft is not None:
        step_s += sum(
            float(draft.forward_s(float(batch), read_tokens=batch * (context + place)))
            for place in range(1, tokens + 1)
        )
    return batch * emitted(acceptance, tokens) / step_s


def choose_tokens(
    target: StepTimes,
    draft: StepTimes | None,
    *,
    batch: int,
    context: float,
    acceptance: float,
    most: int = MOST_TOKENS,
) -> int:
    """The number of drafted tokens with the highest goodput; 0 if drafting does not pay."""
    rates = [
        goodput(target, draft, batch=batch, context=context, tokens=tokens, acceptance=acceptance)
        for tokens in range(most + 1)
    ]
    return rates.index(max(rates))


def draft_table(
    target: StepTimes,
    draft: StepTimes | None,
    *,
    context: float,
    acceptance: float,
    most_sequences: int,
    most: int = MOST_TOKENS,
) -> tuple[Draft, ...]:
    """Draft lengths for 1 to ``most_sequences`` sequences, without gaps, as vLLM takes them.

    Raises:
        InvalidRequest: The acceptance is no share.
    """
    if not 0 <= acceptance <= 1:
        raise InvalidRequest(f"acceptance = {acceptance:g} must be between 0 and 1", field="acceptance")
    choices = [
        choose_tokens(target, draft, batch=batch, context=context, acceptance=acceptance, most=most)
        for batch in range(1, most_sequences + 1)
    ]
    return tuple(_runs(choices))


def _runs(choices: Sequence[int]) -> list[Draft]:
    runs: list[Draft] = []
    for batch, tokens in enumerate(choices, 1):
        if runs and runs[-1].tokens == tokens:
            runs[-1] = runs[-1]._replace(last=batch)
        else:
            runs.append(Draft(batch, batch, tokens))
    return runs
