"""vLLM with the lab's models: shared prefixes by its own counters, searches, aborts, priorities, limits, death."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio

from orchestrator import Orchestrator
from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.bench.lab.tokenizer import encode, prompt_ids
from orchestrator.bench.sets import open_set
from orchestrator.engine import Delta, Finished, FinishReason, Message, Prompt
from orchestrator.errors import EngineFailed, InvalidRequest
from orchestrator.job import JobState
from orchestrator.sampling import Sampling
from orchestrator.testing.transcript import Transcript
from orchestrator.workers.vllm.engine import VllmEngine

pytest.importorskip("vllm", reason="vLLM is not installed")

from .asked import answer_ids, asked
from .conftest import BLOCK, OpenEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

NUM_SEQUENCES, MOST_QUEUED = 4, 64


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def large(open_one: OpenEngine) -> VllmEngine:
    return await open_one(WEIGHTS / "large", max_num_seqs=NUM_SEQUENCES, max_num_queued_reqs=MOST_QUEUED)


async def test_prompts_of_the_lab_are_read_as_in_training(large: VllmEngine) -> None:
    for spec in ("expression@6", "countdown@4", "sudoku6@7"):
        for problem in open_set(spec, count=20, seed=3).problems:
            assert large.tokenize(problem.text) == tuple(encode(problem.text))
            expected = len(prompt_ids(problem.text))
            assert large.count_prompt_tokens(Prompt((Message("user", problem.text),))) == expected


async def test_samples_of_a_prompt_share_its_full_blocks(large: VllmEngine) -> None:
    before = replace(large.core.counters)
    transcript = await Transcript.of(large, asked(*[4] * 8, cache_salt="samples", sampling=Sampling(temperature=1.0)))
    counters, length = large.core.counters, transcript.prompt_tokens
    assert counters.prefix_queries - before.prefix_queries == 8 * length
    blocks = (length - 1) // BLOCK
    assert blocks >= 2
    assert counters.prefix_hits - before.prefix_hits == 7 * blocks * BLOCK
    assert transcript.prefilled is not None
    assert transcript.prefilled.cached_tokens == 0, "the first of them found nothing"


async def test_a_tree_search_reads_its_prefixes_from_the_cache(large: VllmEngine) -> None:
    pytest.importorskip("llama_cpp", reason="the reward model is run by the embedded engine")
    from orchestrator.bench.lab.opening import open_lab
    from orchestrator.config import Settings

    problems = open_set("expression@6", count=2, seed=7)
    prm = await open_lab("prm", Settings())
    before, counted = replace(large.core.counters), await large.health()
    try:
        async with Orchestrator(large, roles={"verifier": prm}) as ttc:
            results = [
                await ttc.solve(
                    problem.text,
                    messages=problem.messages,
                    policy="rebase",
                    params={"width": 8},
                    answer=problems.answer_kind,
                    seed=1,
                )
                for problem in problems.problems
            ]
    finally:
        await prm.aclose()
    assert all(result.state is JobState.SUCCEEDED for result in results)
    solved = [
        problems.is_correct(problem, result.text) for problem, result in zip(problems.problems, results, strict=True)
    ]
    assert any(solved), "the model solves such problems mostly"
    counters = large.core.counters
    hits = counters.prefix_hits - before.prefix_hits
    share = hits / (counters.prefix_queries - before.prefix_queries)
    assert share > 0.3, "steps of one tree continue what vLLM has"
    after = await large.health()
    assert after.cached_prompt_tokens - counted.cached_prompt_tokens > 0
    paid = sum(result.usage.output_tokens for result in results)
    assert paid >= after.output_tokens - counted.output_tokens > 0


async def test_cancelled_and_abandoned_requests_leave_vllm_nothing_to_do(large: VllmEngine) -> None:
    long = Sampling(temperature=2.0)
    cancelled = asked(*[150] * 12, sampling=long)
    async for event in large.generate(cancelled):
        if isinstance(event, Delta):
            large.cancel(cancelled.request_id)
    async with aclosing(large.generate(asked(*[150] * 12, sampling=long))) as abandoned:
        async for event in abandoned:
            if isinstance(event, Delta):
                break
    reader = asyncio.create_task(Transcript.of(large, asked(*[150] * 12, sampling=long)))
    await asyncio.sleep(0.05)
    reader.cancel()
    await asyncio.wait([reader])
    await _until(lambda: not large.core.num_unfinished)
    probe = await Transcript.of(large, asked(1))
    assert probe.num_tokens == 1
    assert large.core.counters.running <= 1, "only the probe ran in the last step"
    assert large.core.counters.waiting == 0


async def test_an_urgent_request_goes_before_what_waits(large: VllmEngine) -> None:
    order: list[str] = []

    async def read(name: str, *max_tokens: int, **fields: object) -> None:
        async for event in large.generate(asked(*max_tokens, **fields)):
            if isinstance(event, Finished):
                order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(read("patient", *[60] * 16))
        await asyncio.sleep(0.02)
        group.create_task(read("due", 4, deadline_s=60.0))
        await asyncio.sleep(0)
        group.create_task(read("urgent", 4, priority=-1))
    assert order.index("urgent") < 8, order
    assert order.index("due") < 8, order


async def test_a_deadline_that_passes_ends_the_samples_with_what_they_have(large: VllmEngine) -> None:
    transcript = await Transcript.of(large, asked(*[150] * 4, sampling=Sampling(temperature=2.0), deadline_s=0.05))
    ends = [sample.finished for sample in transcript.samples]
    assert all(end is not None for end in ends)
    assert {(end.reason, end.detail) for end in ends if end is not None} <= {
        (FinishReason.CANCELLED, "deadline"),
        (FinishReason.END, None),
    }
    assert (await large.health()).live_sequences == 0


async def test_a_reader_that_falls_behind_gets_the_same_tokens_later(large: VllmEngine) -> None:
    (expected,) = await answer_ids(large, 60)
    ids: list[int] = []
    num_held = 0
    async for event in large.generate(asked(60, max_unread_tokens=4)):
        if isinstance(event, Delta):
            assert event.num_tokens <= 2
            assert event.token_ids is not None
            ids += event.token_ids
            await _until(lambda: not large.core.num_unfinished)  # it is aborted, for nobody reads
            num_held += 1
    assert tuple(ids) == expected
    assert num_held > len(ids) / 4


async def test_more_samples_than_may_wait_are_refused_for_now(large: VllmEngine) -> None:
    with pytest.raises(EngineFailed, match="no room") as caught:
        await Transcript.of(large, asked(*[1] * (MOST_QUEUED + 1)))
    assert caught.value.is_retryable
    assert (await Transcript.of(large, asked(1))).num_tokens == 1


@pytest.mark.parametrize(
    "fields",
    [{"grammar": "root ::= ("}, {"grammar": "no rule"}, {"json_schema": {"type": "no such type"}}],
    ids=["open parenthesis", "no root", "no type"],
)
async def test_what_is_no_grammar_is_the_callers_mistake(large: VllmEngine, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        await Transcript.of(large, asked(4, **fields))
    assert (await Transcript.of(large, asked(1))).num_tokens == 1


async def test_guesses_of_a_draft_model_do_not_change_greedy_output(large: VllmEngine, open_one: OpenEngine) -> None:
    guessing = await open_one(
        WEIGHTS / "large",
        name="guessing",
        speculation={
            "method": "draft_model",
            "model": str(WEIGHTS / "draft"),
            "num_tokens": 3,
            "by_batch": ((1, 8, 3), (9, 32, 0)),
        },
    )
    texts = [problem.text for problem in open_set("expression@6", count=6, seed=11).problems]
    prompts = [Prompt((Message("user", text),)) for text in texts]
    plain = [await answer_ids(large, 120, prompt=prompt) for prompt in prompts]
    guessed = [await answer_ids(guessing, 120, prompt=prompt) for prompt in prompts]
    assert guessed == plain
    counters = guessing.core.counters
    assert counters.accepted_tokens > 0
    assert counters.draft_tokens == pytest.approx(3 * counters.drafts, rel=0.2)
    counted = counters.drafts
    await answer_ids(guessing, *[8] * 12, cache_salt="many at once")
    assert counters.drafts - counted < 12 * 7 / 3, "many sequences at once are not guessed for"
    sample = (await Transcript.of(guessing, asked(40, prompt=prompts[0], stop=("=",)))).only
    assert sample.reason is FinishReason.STOP
    assert sample.token_ids is not None
    assert "=" not in guessing.detokenize(sample.token_ids[:-1]), "a guess beyond the stop string was kept"


async def test_a_core_that_dies_fails_what_it_serves_and_is_started_again(large: VllmEngine) -> None:
    (core,) = [child for child in multiprocessing.active_children() if _serves(child, large)]
    with pytest.raises(EngineFailed, match="has died") as caught:
        await _read_and_kill(large, core)
    assert caught.value.is_retryable
    health = await large.health()
    assert not health.is_ready
    assert "has died" in health.detail
    assert health.live_sequences == 0
    for _ in range(3):  # a busy machine may take longer to start it than a request waits
        with contextlib.suppress(EngineFailed):
            await Transcript.of(large, asked(1))
            break
    assert (await Transcript.of(large, asked(3))).num_tokens == 3
    assert (await large.health()).is_ready


async def _read_and_kill(engine: VllmEngine, core: multiprocessing.process.BaseProcess) -> None:
    async for event in engine.generate(asked(*[150] * 4, sampling=Sampling(temperature=2.0))):
        if isinstance(event, Delta) and core.is_alive():
            assert core.pid is not None
            os.kill(core.pid, signal.SIGKILL)


def _serves(child: multiprocessing.process.BaseProcess, engine: VllmEngine) -> bool:
    manager = engine.core.llm.engine_core.resources.engine_manager
    return child.pid in {process.pid for process in manager.processes}


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  # vLLM has no event for it
            await asyncio.sleep(0.01)
