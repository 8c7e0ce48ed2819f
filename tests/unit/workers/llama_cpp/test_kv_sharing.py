"""Tree searches on the embedded engine with a fake model: what is shared, what waits, what a cap on cells costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.engine import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    Span,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.sampling import Sampling
from orchestrator.workers.llama_cpp import LlamaCppEngine

from .fake_model import STEP, FakeContext, open_fake

ROOT = Prompt((Message("user", "abcdefgh"),))
MAX_STEP = 12


@dataclass
class Reply:
    """What came of one request."""

    prompt: Prompt
    prefilled: Prefilled
    ids: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)

    def children(self, *, which: FinishReason | None = None) -> list[Prompt]:
        """The prompts that go on from its samples."""
        return [
            replace(self.prompt, continuation=(*self.prompt.continuation, Span("", tuple(self.ids[index]), "fake")))
            for index, ended in sorted(self.finished.items())
            if which in {None, ended.reason} and self.ids[index]
        ]

    @property
    def said(self) -> list[tuple[list[int], FinishReason, int]]:
        """Tokens, reason and count of each sample."""
        return [(self.ids[index], end.reason, end.output_tokens) for index, end in sorted(self.finished.items())]


@dataclass
class Bench:
    """An engine, its context, and what was asked of it in one tree."""

    engine: LlamaCppEngine
    context: FakeContext
    tree_id: str = "tree"
    replies: list[Reply] = field(default_factory=list)
    log: list[Prefilled | Finished] = field(default_factory=list)

    async def ask(self, prompt: Prompt, num_samples: int, *, max_tokens: int = MAX_STEP) -> Reply:
        number = len(self.replies)
        reply = Reply(prompt, Prefilled(0))
        self.replies.append(reply)
        request = GenerateRequest(
            request_id=f"{self.tree_id} {number}",
            prompt=prompt,
            samples=tuple(SampleSpec(1000 * number + index, max_tokens) for index in range(num_samples)),
            sampling=Sampling(temperature=1.0),
            stop=("\n\n",),
            tree_id=self.tree_id,
        )
        async for event in self.engine.generate(request):
            if isinstance(event, Prefilled):
                reply.prefilled = event
                self.log.append(event)
            elif isinstance(event, Delta):
                reply.ids.setdefault(event.index, []).extend(event.token_ids or ())
            else:
                reply.ids.setdefault(event.index, [])
                reply.finished[event.index] = event
                self.log.append(event)
        return reply

    async def level(self, prompts: Sequence[Prompt], counts: int | Sequence[int]) -> list[Reply]:
        """All prompts at once, as an `Expand` does it."""
        wanted = [counts] * len(prompts) if isinstance(counts, int) else counts
        asked = [self.ask(prompt, count) for prompt, count in zip(prompts, wanted, strict=True)]
        replies = await asyncio.gather(*asked)
        await self.engine.check_integrity()
        return list(replies)

    async def health(self) -> EngineHealth:
        return await self.engine.health()

    @property
    def recomputed(self) -> int:
        """As the requests were told."""
        ends = [end for reply in self.replies for end in reply.finished.values()]
        return sum(end.recomputed_tokens for end in ends) + sum(r.prefilled.recomputed_tokens for r in self.replies)

    def check_computed(self) -> None:
        """No token is computed without being the first of its kind, or counted as computed again."""
        written = sum(max(end.output_tokens - 1, 0) for reply in self.replies for end in reply.finished.values())
        read = sum(reply.prefilled.prompt_tokens - reply.prefilled.cached_tokens for reply in self.replies)
        again = sum(end.recomputed_tokens for reply in self.replies for end in reply.finished.values())
        least = read + written + again
        assert least <= self.context.num_computed <= least + sum(r.prefilled.recomputed_tokens for r in self.replies)


def parents_of(count: int) -> list[Prompt]:
    """Distinct first steps of four letters."""
    rng = random.Random(3)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts["".join(rng.choices("abcdefghijklmn", k=4)) + "\n\n"] = None
    return [replace(ROOT, continuation=(Span(text),)) for text in texts]


async def test_a_wide_level_reads_each_parent_once_and_its_samples_fork() -> None:
    bench = Bench(*open_fake(num_cells=8192, max_sequences=16, max_branches=256))
    await bench.ask(ROOT, 1)
    first = await bench.level(parents_of(64), 4)
    assert all(1 <= reply.prefilled.prompt_tokens - reply.prefilled.cached_tokens <= 5 for reply in first)
    grown = [child for reply in first for child in reply.children(which=FinishReason.STOP)]
    distinct = list({child.continuation[-1].token_ids: child for child in grown}.values())[:64]
    await bench.engine.release("tree", keep=distinct)
    second = await bench.level(distinct, 4)
    assert {reply.prefilled.prompt_tokens - reply.prefilled.cached_tokens for reply in second} == {1}
    assert bench.recomputed == 0
    bench.check_computed()
    await bench.engine.aclose()


async def test_a_level_wider_than_the_sequences_goes_depth_first() -> None:
    bench = Bench(*open_fake(num_cells=8192, max_sequences=8, max_branches=64))
    await bench.level(parents_of(40), 4)
    begun = most_begun = 0
    for event in bench.log:
        begun += 4 if isinstance(event, Prefilled) else -1
        most_begun = max(most_begun, begun)
    assert 8 <= most_begun <= 8 + 4, "parents were read long before there was a place for their samples"
    await bench.engine.aclose()


@pytest.mark.parametrize(("num_cells", "max_branches"), [(64, 4), (64, 64), (4096, 4), (200, 16)])
async def test_levels_wider_than_cells_and_branches_run_in_waves(num_cells: int, max_branches: int) -> None:
    engine, context = open_fake(num_cells=num_cells, max_sequences=4, max_branches=max_branches, trained_context=64)
    wide, narrow = Bench(engine, context, "wide"), Bench(engine, context, "narrow")
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(wide.level(parents_of(24), 3))
        await asyncio.sleep(0)
        await narrow.ask(parents_of(30)[-1], 3)
        assert not running.done(), "the narrow tree had to wait for the wide one to end"
    assert all(len(reply.finished) == 3 for reply in wide.replies)
    assert (await wide.health()).peak_kv_cells <= num_cells
    assert (await wide.health()).recomputed_tokens == wide.recomputed + narrow.recomputed
    await engine.aclose()


async def search(bench: Bench, seed: int, *, width: int, depth: int) -> None:
    """A random search: some of the steps are kept and continued by different numbers of samples, as REBASE does."""
    rng = random.Random(seed)
    frontier, counts = [ROOT], [width]
    for _ in range(depth):
        replies = await bench.level(frontier, counts)
        grown = [child for reply in replies for child in reply.children(which=FinishReason.STOP)]
        if not grown:
            break
        frontier = rng.sample(grown, rng.randint(1, len(grown)))
        frontier = list({tuple(span.token_ids for span in prompt.continuation): prompt for prompt in frontier}.values())
        counts = [rng.randint(1, 4) for _ in frontier]
        await bench.engine.release("tree", keep=frontier)
        await bench.engine.check_integrity()
    await bench.engine.release("tree")
    await bench.engine.check_integrity()


ONE_PATH = 8 + 4 * MAX_STEP
"""Cells of the longest trajectory that `search` can make with four levels."""


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    spare=st.sampled_from([0, 1, 10, 40, 120]),
    max_sequences=st.integers(1, 8),
    more_branches=st.integers(0, 20),
    shares_prefixes=st.booleans(),
)
def test_a_cap_on_cells_costs_recomputation_and_changes_nothing_else(
    seed: int, spare: int, max_sequences: int, more_branches: int, shares_prefixes: bool
) -> None:
    async def both() -> None:
        roomy = Bench(*open_fake(num_cells=1 << 14, max_branches=256, trained_context=ONE_PATH))
        await search(roomy, seed, width=6, depth=4)
        tight = Bench(
            *open_fake(
                num_cells=ONE_PATH + spare,
                max_sequences=max_sequences,
                max_branches=max_sequences + more_branches,
                trained_context=ONE_PATH,
                shares_prefixes=shares_prefixes,
            )
        )
        await search(tight, seed, width=6, depth=4)
        assert [reply.said for reply in tight.replies] == [reply.said for reply in roomy.replies]
        read = [[reply.prefilled.prompt_tokens for reply in bench.replies] for bench in (roomy, tight)]
        assert read[0] == read[1]
        health = await tight.health()
        assert health.peak_kv_cells <= ONE_PATH + spare
        assert health.recomputed_tokens == tight.recomputed
        assert roomy.recomputed == 0
        roomy.check_computed()
        tight.check_computed()
        assert roomy.context.num_computed <= tight.context.num_computed
        for bench in (roomy, tight):
            await bench.engine.aclose()

    asyncio.run(both())


async def test_without_sharing_each_request_reads_its_whole_prompt_and_leaves_nothing() -> None:
    bench = Bench(*open_fake(num_cells=4096, max_branches=64, shares_prefixes=False))
    await search(bench, 5, width=6, depth=4)
    assert len(bench.replies) > 3
    assert {reply.prefilled.cached_tokens for reply in bench.replies} == {0}
    assert bench.recomputed == 0
    bench.check_computed()
    assert (await bench.health()).resident_kv_cells == 0
    long = Prompt((Message("user", "abcdefgh" * 10),))
    replies = await bench.level([long, long, long], 1)
    assert [reply.prefilled.cached_tokens for reply in replies] == [0, 0, 0]
    await bench.engine.aclose()


async def test_what_is_finished_is_pinned_to_nobody() -> None:
    bench = Bench(*open_fake(num_cells=4096, max_branches=64, idle_cells=0))
    reply = await bench.ask(ROOT, 120)
    assert 5 < sum(end.reason is FinishReason.END for end in reply.finished.values()) < 60
    going_on = {tuple(reply.ids[i]) for i, end in reply.finished.items() if end.reason is not FinishReason.END}
    holding = bench.engine._loop.cache.holdings.of("tree")
    assert holding.cells <= 8 + sum(map(len, going_on))
    before = holding.cells
    rewards = await bench.engine.reward_steps(ROOT, ["abc\n\n", "the end"], tree_id="tree")
    assert len(rewards.rewards) == 2
    assert bench.engine._loop.cache.holdings.of("tree").cells == before
    await bench.engine.reward_steps(ROOT, ["abc\n\n", "to go on\n\n"], tree_id="tree")
    assert bench.engine._loop.cache.holdings.of("tree").cells > before
    await bench.engine.aclose()


async def test_each_tree_is_told_its_own_cells() -> None:
    engine, context = open_fake(num_cells=4096, max_branches=64)
    small, large = Bench(engine, context, "small"), Bench(engine, context, "large")
    few = await small.ask(ROOT, 1, max_tokens=3)
    many = await large.ask(ROOT, 8)
    peaks = [max(end.tree_kv_cells for end in reply.finished.values()) for reply in (few, many)]
    written = sum(end.output_tokens for end in many.finished.values())
    assert 8 < peaks[0] <= 8 + 3
    assert 8 + MAX_STEP < peaks[1] <= 8 + written
    assert (await engine.health()).peak_kv_cells <= sum(peaks)
    await engine.aclose()


@pytest.mark.parametrize("tag", [(STEP,), (3, 3, 4)])
async def test_reward_models_keep_the_trunk_for_the_tree_that_they_read_for(tag: tuple[int, ...]) -> None:
    engine, _ = open_fake(num_cells=4096, max_branches=64, idle_cells=0, tag=tag)
    steps = ["abc\n\n", "def\n\n", "ghi\n\n"]
    first = await engine.reward_steps(ROOT, steps[:2], tree_id="tree")
    assert first.cached_tokens == 0
    second = await engine.reward_steps(ROOT, steps, num_known=2, tree_id="tree")
    assert second.cached_tokens == first.prompt_tokens
    await engine.release("tree", keep=[replace(ROOT, continuation=(Span("".join(steps[:2])),))])
    assert engine._loop.cache.holdings.of("tree").cells == first.prompt_tokens
    third = await engine.reward_steps(ROOT, steps, num_known=2, tree_id="tree")
    assert third.cached_tokens >= first.prompt_tokens
    assert third.rewards == second.rewards
    await engine.release("tree")
    assert engine._loop.cache.holdings.owners == frozenset()
    await engine.check_integrity()
    await engine.aclose()
