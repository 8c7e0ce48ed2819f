"""KV sharing from a search's policy down to llama.cpp's cells, on the lab's models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator import Budget, Orchestrator, Result
from orchestrator.engine import Finished, GenerateRequest, Message, Prefilled, Prompt, SampleSpec, Span
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling

pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")

from orchestrator.bench.lab.model_names import REWARD_MODEL, weights_path
from orchestrator.bench.sets import open_set
from orchestrator.workers.llama_cpp import LlamaCppEngine, open_engine

pytestmark = pytest.mark.model

OpenLab = Callable[..., Awaitable[LlamaCppEngine]]
PROBLEM = open_set("expression", count=1).problems[0]
BUDGET = Budget(max_output_tokens=20_000)


@pytest.fixture
async def open_lab() -> AsyncIterator[OpenLab]:
    """Opens models of the lab; at the end checks their books against llama.cpp's."""
    opened: list[LlamaCppEngine] = []

    async def open_it(name: str = "small", **options: Any) -> LlamaCppEngine:
        engine = await open_engine(weights_path(name), name=name, num_threads=1, **options)
        opened.append(engine)
        return engine

    yield open_it
    for engine in opened:
        await engine.check_integrity()
        assert (await engine.health()).live_sequences == 0
        await engine.aclose()


async def ask(
    engine: LlamaCppEngine, prompt: Prompt, number: int, num_samples: int
) -> tuple[Prefilled, list[Finished]]:
    request = GenerateRequest(
        request_id=str(number),
        prompt=prompt,
        samples=tuple(SampleSpec(100 * number + index, 12) for index in range(num_samples)),
        sampling=Sampling(temperature=1.0),
        tree_id="tree",
    )
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[0], Prefilled)
    return events[0], [event for event in events if isinstance(event, Finished)]


async def test_64_parents_with_4_samples_each_are_read_once(open_lab: OpenLab) -> None:
    engine = await open_lab(context_cells=8192, max_sequences=16, max_branches=256)
    root = Prompt((Message("user", PROBLEM.text),))
    parents = [Prompt(root.messages, (Span(f"{number}+{number}={2 * number}\n\n"),)) for number in range(10, 74)]
    await ask(engine, root, 0, 1)
    before = await engine.health()
    replies = await asyncio.gather(*(ask(engine, parent, 1 + index, 4) for index, parent in enumerate(parents)))
    after = await engine.health()
    own = [engine.count_prompt_tokens(parent) - engine.count_prompt_tokens(root) for parent in parents]
    fresh = [prefilled.prompt_tokens - prefilled.cached_tokens for prefilled, _ in replies]
    assert all(1 <= read <= most + 1 for read, most in zip(fresh, own, strict=True))
    read = after.prompt_tokens - before.prompt_tokens
    assert read - (after.cached_prompt_tokens - before.cached_prompt_tokens) == sum(fresh)
    assert after.recomputed_tokens == 0
    assert [len(finished) for _, finished in replies] == [4] * 64


@pytest.mark.parametrize(("cells", "branches"), [(160, 4), (160, 64), (400, 8)])
async def test_a_level_wider_than_cells_or_branches_ends(open_lab: OpenLab, cells: int, branches: int) -> None:
    engine = await open_lab(context_cells=cells, max_sequences=4, max_branches=branches)
    root = Prompt((Message("user", PROBLEM.text),))
    parents = [Prompt(root.messages, (Span(f"{number}+{number}={2 * number}\n\n"),)) for number in range(10, 42)]
    async with asyncio.timeout(120):
        replies = await asyncio.gather(*(ask(engine, parent, index, 3) for index, parent in enumerate(parents)))
    health = await engine.health()
    assert [len(finished) for _, finished in replies] == [3] * 32
    assert health.peak_kv_cells <= health.kv_cells
    told = sum(prefilled.recomputed_tokens for prefilled, _ in replies)
    told += sum(end.recomputed_tokens for _, finished in replies for end in finished)
    assert told == health.recomputed_tokens


async def solved(small: LlamaCppEngine, judge: LlamaCppEngine) -> Result:
    async with Orchestrator(small, roles={"verifier": judge}) as ttc:
        return await ttc.solve(
            PROBLEM.text,
            messages=PROBLEM.messages,
            policy="rebase",
            params={"width": 48},
            budget=BUDGET,
            seed=3,
            answer="boxed",
        )


async def test_a_search_says_what_it_kept_what_it_held_and_what_it_computed_again(open_lab: OpenLab) -> None:
    roomy = [await open_lab(name, context_cells=8192, max_branches=256) for name in ("small", REWARD_MODEL)]
    tight = [await open_lab(name, context_cells=128, max_sequences=8) for name in ("small", REWARD_MODEL)]
    free, capped = await solved(*roomy), await solved(*tight)
    for result, engines in ((free, roomy), (capped, tight)):
        usage, healths = result.usage, [await engine.health() for engine in engines]
        assert usage.recomputed_tokens == sum(health.recomputed_tokens for health in healths)
        assert 0 < usage.peak_kv_cells <= healths[0].peak_kv_cells  # which includes what is kept for nobody
        assert usage.num_levels > 2
        assert usage.kept_kv_tokens < usage.kept_logical_kv_tokens
        assert usage.unique_kv_tokens < usage.logical_kv_tokens
        assert all(not health.live_sequences for health in healths)
    assert free.usage.recomputed_tokens == 0
    assert capped.usage.recomputed_tokens > 0
    assert capped.usage.peak_kv_cells <= 128
    assert free.usage.peak_kv_cells <= free.usage.unique_kv_tokens


async def test_a_search_without_sharing_reads_every_prompt_whole(open_lab: OpenLab) -> None:
    options = {"context_cells": 8192, "share_prefixes": False}
    small, judge = await open_lab("small", **options), await open_lab(REWARD_MODEL, **options)
    usage = (await solved(small, judge)).usage
    assert usage.cached_prompt_tokens == usage.recomputed_tokens == 0
    assert [(await engine.health()).resident_kv_cells for engine in (small, judge)] == [0, 0]


@pytest.mark.soak
@pytest.mark.parametrize("cells", [4096, 1024, 512, 256, 160, 128])
async def test_searches_under_every_cap_end_with_their_books_in_order(open_lab: OpenLab, cells: int) -> None:
    small = await open_lab("small", context_cells=cells, max_sequences=8)
    judge = await open_lab(REWARD_MODEL, context_cells=cells, max_sequences=8)
    problems = open_set("countdown", count=12).problems
    async with Orchestrator(small, roles={"verifier": judge}) as ttc:
        for policy, params in (("rebase", {"width": 16}), ("beam_search", {"width": 16})):
            options = {"policy": policy, "params": params, "budget": BUDGET, "answer": "boxed"}
            async for _, result in ttc.solve_many([problem.text for problem in problems], concurrency=4, **options):
                assert isinstance(result, Result), result
                await small.check_integrity()
                await judge.check_integrity()
    assert (await small.health()).peak_kv_cells <= (await small.health()).kv_cells


async def test_sharing_and_branches_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTC_LLAMA_CPP__SHARE_PREFIXES", "false")
    monkeypatch.setenv("TTC_LLAMA_CPP__MAX_BRANCHES", "40")
    async with Orchestrator("lab:small") as ttc:
        first = await ttc.solve(PROBLEM.text, policy="single", budget=BUDGET)
        second = await ttc.solve(PROBLEM.text, policy="single", budget=BUDGET)
    assert first.usage.cached_prompt_tokens == second.usage.cached_prompt_tokens == 0
    monkeypatch.setenv("TTC_LLAMA_CPP__MAX_BRANCHES", "3")
    with pytest.raises(InvalidRequest, match="max_branches must be from 16 to 256, not 3"):
        async with Orchestrator("lab:small"):
            pass
