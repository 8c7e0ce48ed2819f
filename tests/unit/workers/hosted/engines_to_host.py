"""Openers of engines for tests: hosts import this module by name."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from orchestrator.config import Settings
from orchestrator.engine import Capability, Engine, GenerateRequest, GenerationEvent
from orchestrator.errors import ModelUnavailable
from orchestrator.testing import Latency, ScriptedEngine, arithmetic, babble
from orchestrator.testing.scripted import ALL_CAPABILITIES
from orchestrator.testing.scripted_abilities import BlackBox, ScriptedAll, ScriptedJudge, ScriptedLogits


def black_box(target: str, settings: Settings) -> Engine:
    """An engine without a vocabulary."""
    return BlackBox(
        ScriptedEngine(babble(), capabilities=ALL_CAPABILITIES - {Capability.STRICT_COUNTS}), is_estimated=True
    )


def scorer_and_embedder(target: str, settings: Settings) -> Engine:
    """Scores given tokens and embeds."""
    return ScriptedAll(arithmetic())


def logits(target: str, settings: Settings) -> Engine:
    """Shows its logits."""
    return ScriptedLogits("Zwei, 日本語 🎉🎊 and\n\nmore: " + "one two three " * 40)


def judge(target: str, settings: Settings) -> Engine:
    """Rewards steps."""
    return ScriptedJudge(babble())


def slow(target: str, settings: Settings) -> Engine:
    """Takes 5 ms a token; right every time."""
    return ScriptedEngine(arithmetic(accuracy=1.0), latency=Latency(token_s=0.005), keep_log=False)


def slow_babbler(target: str, settings: Settings) -> Engine:
    """Talks on and on, 5 ms a token."""
    return ScriptedEngine(babble(), latency=Latency(token_s=0.005), keep_log=False)


def absent(target: str, settings: Settings) -> Engine:
    """Opens once the file ``target`` exists; babbles then."""
    if not os.path.exists(target):
        raise ModelUnavailable(f"no model file at {target!r}", model=target)
    return slow_babbler(target, settings)


def aborting(target: str, settings: Settings) -> Engine:
    """Ends its process, as an assertion in native code does."""
    os.abort()


def no_engine(target: str, settings: Settings) -> str:
    """Gives what is no engine."""
    return "an engine"


class Confessing(ScriptedEngine):
    """Says what it has inherited; fails in ways that are no part of the protocol."""

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        wish = request.prompt.messages[0].content
        if wish == "block":
            time.sleep(60)  # noqa: ASYNC251  # the point
        if wish == "abort":
            os.abort()
        if wish == "raise":
            raise ZeroDivisionError("never heard of it")
        async for event in super().generate(request):
            yield event


def confessing(target: str, settings: Settings) -> Engine:
    """Its replies are its environment and its settings."""
    inherited = "\n".join(f"{name}={value}" for name, value in os.environ.items())
    return Confessing(inherited + "\n" + repr(settings.model_dump()) + repr(settings.openai.api_key))


def sleeping(target: str, settings: Settings) -> Engine:
    """Takes for ever to open."""
    time.sleep(60)
    raise AssertionError


async def later(target: str, settings: Settings) -> Engine:
    """Opens asynchronously."""
    await asyncio.sleep(0)
    return ScriptedEngine(f"I am {target}.", name=target)
