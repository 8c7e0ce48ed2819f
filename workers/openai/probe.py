"""Finds out whether a server really continues a partial reply, white space and all."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from orchestrator.engine import Delta, GenerateRequest, Message, Prompt, SampleSpec, Span
from orchestrator.errors import TtcError
from orchestrator.sampling import GREEDY

if TYPE_CHECKING:
    from orchestrator.workers.openai.engine import OpenAIEngine

_QUESTION = Message("user", "Write the numbers from 1 to 20, one per line, and nothing else.")
_PARTIAL_REPLY = "1\n2\n3\n4\n5\n6"
_PROBE_DEADLINE_S = 120.0


async def continues(engine: OpenAIEngine) -> bool:
    """Whether the model goes on after ``6`` with a line break and 7, and after ``6`` and a line break with 7 alone.

    A server that opens a new turn never begins with a line break; one that strips white space repeats it. Even a
    model of 135 million parameters passes. Costs two short requests.
    """
    after_number = await _reply(engine, _PARTIAL_REPLY)
    if not after_number.startswith("\n7"):
        return False
    return (await _reply(engine, _PARTIAL_REPLY + "\n")).startswith("7")


async def _reply(engine: OpenAIEngine, partial: str) -> str:
    request = GenerateRequest(
        request_id=f"probe {len(partial)}",
        prompt=Prompt((_QUESTION,), (Span(partial),)),
        samples=(SampleSpec(seed=0, max_tokens=4),),
        sampling=GREEDY,
        deadline_s=_PROBE_DEADLINE_S,
    )
    text = ""
    try:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    text += event.text
    except TtcError:
        return ""
    return text
