"""Ways to guess tokens that need no draft model: whoever guesses, greedy output is the model's own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.bench.sets import open_set
from orchestrator.engine import Message, Prompt
from orchestrator.workers.vllm.engine import VllmEngine

pytest.importorskip("vllm", reason="vLLM is not installed")

from .asked import answer_ids
from .checkpoints import random_eagle3
from .conftest import OpenEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

TARGET = WEIGHTS / "large"
PROMPTS = [Prompt((Message("user", problem.text),)) for problem in open_set("expression@6", count=4, seed=11).problems]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(open_one: OpenEngine) -> list[list[tuple[int, ...] | None]]:
    """Greedy replies without guesses."""
    return await replies(await open_one(TARGET))


async def replies(engine: VllmEngine) -> list[list[tuple[int, ...] | None]]:
    return [await answer_ids(engine, 120, prompt=prompt) for prompt in PROMPTS]


async def test_repeated_text_as_a_guess(open_one: OpenEngine, plain: list[list[tuple[int, ...] | None]]) -> None:
    speculation = {"method": "ngram", "num_tokens": 3, "options": {"prompt_lookup_max": 3, "prompt_lookup_min": 1}}
    engine = await open_one(TARGET, name="ngram", speculation=speculation)
    assert await replies(engine) == plain
    counters = engine.core.counters
    assert 0 < counters.accepted_tokens <= counters.draft_tokens <= 3 * counters.drafts


@pytest.mark.skipif(not find_spec("arctic_inference"), reason="arctic-inference is not installed")
async def test_suffixes_of_earlier_replies_as_a_guess(
    open_one: OpenEngine, plain: list[list[tuple[int, ...] | None]]
) -> None:
    engine = await open_one(TARGET, name="suffix", speculation={"method": "suffix", "num_tokens": 16})
    counters = engine.core.counters
    assert await replies(engine) == plain
    steps, accepted = counters.steps, counters.accepted_tokens
    assert await replies(engine) == plain
    assert counters.accepted_tokens - accepted > accepted, "what was written before is guessed"
    assert counters.steps - steps < steps / 2


async def test_an_eagle_head_that_guesses_badly(
    open_one: OpenEngine, models: Path, plain: list[list[tuple[int, ...] | None]]
) -> None:
    head = random_eagle3(models / "eagle3", TARGET)
    engine = await open_one(TARGET, name="eagle", speculation={"method": "eagle3", "model": str(head), "num_tokens": 2})
    assert await replies(engine) == plain
    counters = engine.core.counters
    assert counters.draft_tokens == 2 * counters.drafts > 0
    assert counters.accepted_tokens < counters.draft_tokens / 2, "it has learned nothing"
