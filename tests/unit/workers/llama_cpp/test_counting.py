"""What the embedded engine counts of itself while it works."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from orchestrator.engine import GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.sampling import Sampling

from .fake_model import open_fake


async def test_sequences_that_run_are_told_from_those_that_wait_for_a_place() -> None:
    engine, _ = open_fake(num_cells=4096, max_sequences=2)
    request = GenerateRequest(
        request_id="many",
        prompt=Prompt((Message("user", "abcdefgh"),)),
        samples=tuple(SampleSpec(seed, 1000) for seed in range(64)),
        sampling=Sampling(temperature=1.0),
        max_unread_tokens=1,  # sequences stay where they are while nobody reads
    )
    try:
        async with asyncio.timeout(30):
            async with aclosing(engine.generate(request)) as events:  # type: ignore[type-var]  # it is a generator
                await anext(events)
                while not (health := await engine.health()).waiting_sequences:  # noqa: ASYNC110  # engines have no event
                    await asyncio.sleep(0.001)
                assert health.waiting_sequences <= 64
                assert health.running_sequences <= 2
            while (health := await engine.health()).running_sequences or health.waiting_sequences:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    finally:
        await engine.aclose()
