"""Requests for the tests, and streams read to their end."""

from __future__ import annotations

import itertools
from typing import Any

from orchestrator.engine import Engine, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.sampling import GREEDY
from orchestrator.testing.transcript import Transcript

_NUMBERS = itertools.count()
EXPRESSION = Prompt(
    (Message("user", "Evaluate mod 61: 3*(4+17)-5*(2+9*(40-7))+11*(6-2*(3+8))-7*(5+2*(9-30))+4*(8-3*(21+2*(6-5)))"),)
)


def asked(*max_tokens: int, prompt: Prompt = EXPRESSION, **fields: Any) -> GenerateRequest:
    """A request with one sample for each of ``max_tokens``; greedy unless told otherwise."""
    return GenerateRequest(
        request_id=f"asked-{next(_NUMBERS)}",
        prompt=prompt,
        samples=tuple(SampleSpec(seed, limit) for seed, limit in enumerate(max_tokens)),
        **{"sampling": GREEDY} | fields,
    )


async def answer_ids(engine: Engine, *max_tokens: int, **fields: Any) -> list[tuple[int, ...] | None]:
    """Ids of each sample."""
    transcript = await Transcript.of(engine, asked(*max_tokens, **fields))
    return [sample.token_ids for sample in transcript.samples]
