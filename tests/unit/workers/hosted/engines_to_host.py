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
    return BlackBox(ScriptedEngine(babble(), capabilities=ALL_CAPABILITIES - {Capability.STRICT_COUNTS}), is_estimated=True)


def scorer_and_embedder(target: str, settings: Settings) -> Engine:
    """Scores given tokens and embeds."""
    return ScriptedAll(arithmetic())


def logits(target: str, settings: Settings) -> Engine:
    """Shows its logits."""
    return ScriptedLogits("Zwei, 日本語 🎉🎊 and\n\nmore: " + "one two three " * 40)


def judge(target: str, settings: Settings) -> Engine:
    """Rewards steps."""
    return ScriptedJudge(babble())
