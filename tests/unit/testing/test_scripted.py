"""What the scripted engine does beyond the contract: scripts, faults, latencies, counters, options."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import (
    Capability,
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prompt,
    SampleSpec,
    Span,
    TokenAlternatives,
)
from orchestrator.errors import EngineFailed, InvalidRequest, UnknownName
from orchestrator.monitors import ConfidenceFloor
from orchestrator.sampling import GREEDY
from orchestrator.testing import (
    Fault,
    FaultKind,
    Latency,
    Reply,
    ScriptedEngine,
    arithmetic,
    at_random,
    babble,
    choices,
    judge,
    on_calls,
    on_seeds,
)
from orchestrator.testing.scripted import ALL_CAPABILITIES, open_engine
from orchestrator.testing.transcript import SampleTranscript, Transcript

PROMPT = Prompt((Message("user", "What is 17 * 24 + 3?"),))
BOASTFUL = ALL_CAPABILITIES - {Capability.STRICT_COUNTS}


def request(*seeds: int, max_tokens: int = 100, **fields: object) -> GenerateRequest:
    samples = tuple(SampleSpec(seed, max_tokens) for seed in seeds or (1,))
    base = GenerateRequest(request_id="r", prompt=PROMPT, samples=samples)
    return replace(base, **fields)  # type: ignore[arg-type]


async def delivered(engine: ScriptedEngine, asked: GenerateRequest) -> tuple[int, EngineFailed | None]:
    count = 0
    try:
        async for event in engine.generate(asked):
            count += event.num_tokens if isinstance(event, Delta) else 0
    except EngineFailed as error:
        return count, error
    return count, None


async def one(engine: ScriptedEngine, asked: GenerateRequest) -> SampleTranscript:
    return (await Transcript.of(engine, asked)).only


# Text and tokens


async def test_an_end_of_turn_is_a_token_without_id_or_text() -> None:
    sample = await one(ScriptedEngine("one two"), request())
    assert sample.text == "one two"
    assert (sample.num_tokens, len(sample.token_ids or ())) == (3, 2)
    assert sample.reason is FinishReason.END
    cut = await one(ScriptedEngine("one two"), request(max_tokens=2))
    assert (cut.num_tokens, cut.reason) == (2, FinishReason.LENGTH)


async def test_a_reply_may_end_with_a_tool_call() -> None:
    sample = await one(ScriptedEngine(lambda _prompt, _seed: Reply(text="x", finish=FinishReason.TOOL_CALL)), request())
    assert sample.reason is FinishReason.TOOL_CALL


@given(
    cuts=st.lists(st.integers(1, 9), max_size=8), text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
)
def test_a_reply_in_pieces_is_the_reply_in_one(cuts: list[int], text: str) -> None:
    async def check() -> None:
        engine = ScriptedEngine(["other", text, "more"])
        spans: tuple[Span, ...] = ()
        for limit in [*cuts, 1000]:
            asked = request(1, max_tokens=limit, prompt=replace(PROMPT, continuation=spans))
            sample = await one(engine, asked)
            spans += (sample.span(engine.describe().tokenizer),)
            if sample.reason is FinishReason.END:
                break
        assert engine.detokenize([token for span in spans for token in span.token_ids or ()]) == text

    asyncio.run(check())


async def test_a_partial_reply_the_script_did_not_write_is_shown_to_it() -> None:
    def script(prompt: Prompt, seed: int) -> str:
        return f"<{prompt.continuation_text}|{seed}>"

    engine = ScriptedEngine(script)
    sample = await one(engine, request(5, prompt=replace(PROMPT, continuation=(Span("So far "), Span("so good")))))
    assert sample.text == "<So far so good|5>"
    sample = await one(engine, request(5, prompt=replace(PROMPT, continuation=(Span("<|"),))))
    assert sample.text == "5>"


async def test_without_seeds_every_sample_is_another_and_greedy_ones_are_equal() -> None:
    texts = [str(number) for number in range(1000)]
    seedless = ScriptedEngine(texts, capabilities=ALL_CAPABILITIES - {Capability.SEEDS})
    assert len({(await one(seedless, request(1))).text for _ in range(5)}) == 5
    greedy = await Transcript.of(ScriptedEngine(texts), request(1, 2, 3, sampling=GREEDY))
    assert {sample.text for sample in greedy.samples} == {"0"}


async def test_the_context_ends_a_sample() -> None:
    engine = ScriptedEngine(babble(), context_length=40)
    transcript = await Transcript.of(engine, request())
    assert transcript.prompt_tokens + transcript.num_tokens == 40
    assert transcript.only.reason is FinishReason.LENGTH


# Log probabilities


async def test_a_judges_first_token_shows_p_yes() -> None:
    engine = ScriptedEngine(judge(0.8))
    sample = await one(engine, request(num_logprobs=5, sampling=GREEDY))
    (row,) = sample.deltas[0].alternatives or ()
    assert isinstance(row, TokenAlternatives)
    by_text = {
        engine.detokenize([int(token)]): math.exp(value) for token, value in zip(row.tokens, row.logprobs, strict=True)
    }
    assert by_text == pytest.approx({"Yes": 0.8, "No": 0.2})
    assert sample.deltas[0].logprobs == pytest.approx((math.log(0.8),))


async def test_unsure_replies_are_cut_by_the_confidence_floor_and_sure_ones_are_not() -> None:
    floor = ConfidenceFloor(floor=2.0, window=8, top_k=4)
    text = "word " * 40
    for logprob, reason in ((-1.2, FinishReason.MONITOR), (-0.001, FinishReason.END)):
        engine = ScriptedEngine(lambda _prompt, _seed, logprob=logprob: Reply(text=text, logprob=logprob))
        assert (await one(engine, request(monitors=(floor,)))).reason is reason


# Faults


@pytest.mark.parametrize("after_tokens", [0, 1, 32, 33, 100])
async def test_a_failure_comes_after_exactly_the_tokens_planned(after_tokens: int) -> None:
    fault = Fault(after_tokens=after_tokens, is_retryable=False, message="out of memory")
    engine = ScriptedEngine(babble(), faults=on_calls({1: fault}))
    assert await delivered(engine, request(1, 2)) == (200, None)
    count, error = await delivered(engine, request(1, 2))
    assert count == after_tokens
    assert error is not None
    assert (error.is_retryable, str(error)) == (False, "out of memory")
    assert await delivered(engine, request(1, 2)) == (200, None)
    health = await engine.health()
    assert health.output_tokens == 400 + after_tokens
    assert (health.requests, health.live_sequences, engine.live_requests) == (3, 0, frozenset())


async def test_a_hanging_request_ends_when_it_is_cancelled() -> None:
    for after_tokens in (0, 7):
        fault = Fault(kind=FaultKind.HANG, after_tokens=after_tokens)
        engine = ScriptedEngine(babble(), faults=on_seeds([2], fault))
        async with asyncio.timeout(2), asyncio.TaskGroup() as group:
            task = group.create_task(Transcript.of(engine, request(1, 2)))
            await asyncio.sleep(0.02)
            assert engine.live_requests == {"r"}
            engine.cancel("r")
        assert task.result().num_tokens == after_tokens
        assert {sample.reason for sample in task.result().samples} == {FinishReason.CANCELLED}


async def test_an_engine_that_dies_comes_back_after_the_requests_it_was_told() -> None:
    engine = ScriptedEngine("fine")
    engine.die(2)
    assert not (await engine.health()).is_ready
    outcomes = [(await delivered(engine, request()))[1] for _ in range(3)]
    assert [error is not None for error in outcomes] == [True, True, False]
    assert (await engine.health()).is_ready


async def test_lies_are_told_only_by_engines_that_do_not_promise_exact_counts() -> None:
    lies = on_calls(
        {0: Fault(kind=FaultKind.MISCOUNT, extra_tokens=5), 1: Fault(kind=FaultKind.OVERRUN, extra_tokens=40)}
    )
    liar = ScriptedEngine(babble(), faults=lies, capabilities=BOASTFUL)
    miscounted, overrun = [await one(liar, request(max_tokens=10)) for _ in range(2)]
    assert miscounted.finished is not None
    assert (miscounted.num_tokens, miscounted.finished.output_tokens) == (10, 15)
    assert overrun.num_tokens == 50
    with pytest.raises(ValueError, match="STRICT_COUNTS"):
        await delivered(ScriptedEngine(babble(), faults=lies), request())


def test_random_faults_are_as_frequent_as_planned_and_the_same_every_time() -> None:
    plan = at_random(0.25, Fault(), seed=3)
    hits = [plan(call, request()) is not None for call in range(4000)]
    assert sum(hits) / 4000 == pytest.approx(0.25, abs=0.03)
    assert hits == [plan(call, request()) is not None for call in range(4000)]


# Time


class _Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def test_samples_run_side_by_side_and_the_slowest_decides() -> None:
    clock = _Clock()
    latency = Latency(prefill_s=1.0, prefill_token_s=0.1, token_s=0.5)
    engine = ScriptedEngine(babble(), latency=latency, clock=clock)
    transcript = await Transcript.of(engine, request(*range(8), max_tokens=40))
    assert clock.now == pytest.approx(1.0 + 0.1 * transcript.prompt_tokens + 0.5 * 40)
    await Transcript.of(engine, request(1, max_tokens=1))  # the prompt is cached but for its last token
    assert clock.now == pytest.approx(1.0 + 0.1 * transcript.prompt_tokens + 0.5 * 40 + 1.0 + 0.1 + 0.5)


async def test_samples_arrive_in_another_order_than_they_were_asked_for_when_speeds_differ() -> None:
    engine = ScriptedEngine(babble(), latency=Latency(token_s=1.0, jitter=0.5), clock=_Clock())
    order = [event.index async for event in engine.generate(request(*range(8))) if isinstance(event, Finished)]
    assert sorted(order) == list(range(8))
    assert order != list(range(8))
    slow = ScriptedEngine(
        babble(),
        latency=Latency(token_s=1.0),
        clock=(clock := _Clock()),
        faults=on_calls({0: Fault(kind=FaultKind.SLOW, factor=3)}),
    )
    await delivered(slow, request(max_tokens=10))
    assert clock.now == pytest.approx(30)


# Books


async def test_prefixes_are_remembered_by_tenant_including_what_was_written() -> None:
    engine = ScriptedEngine(arithmetic())
    first = await Transcript.of(engine, request(max_tokens=10))
    longer = replace(PROMPT, continuation=(first.only.span(engine.describe().tokenizer),))
    second = await Transcript.of(engine, request(prompt=longer))
    assert second.prefilled is not None
    assert second.prefilled.cached_tokens == second.prompt_tokens - 1 == first.prompt_tokens + 10 - 1
    other = await Transcript.of(engine, request(prompt=longer, cache_salt="other"))
    assert other.prefilled is not None
    assert other.prefilled.cached_tokens == 0


async def test_requests_are_logged_and_releases_noted() -> None:
    engine = ScriptedEngine(choices({"a": 1}))
    await delivered(engine, request(tree_id="t"))
    await engine.release("t", keep=[PROMPT])
    assert [logged.tree_id for logged in engine.log] == ["t"]
    assert engine.released == [("t", (PROMPT,))]


@pytest.mark.parametrize(
    ("fields", "field"), [({"samples": (SampleSpec(1, 0),)}, "max_tokens"), ({"request_id": "busy"}, "request_id")]
)
async def test_requests_that_cannot_be_served_are_refused_by_field(fields: dict[str, object], field: str) -> None:
    engine = ScriptedEngine(babble())
    busy = engine.generate(request(max_tokens=9, request_id="busy"))
    await anext(busy)
    with pytest.raises(InvalidRequest) as caught:
        await delivered(engine, request(**fields))
    assert caught.value.field == field
    engine.cancel("busy")
    assert [event async for event in busy][-1] == Finished(0, FinishReason.CANCELLED, 0)


# By name


async def test_engines_open_by_the_text_that_names_them() -> None:
    engine = await open_engine("arithmetic,token_s=0.001,accuracy=1.0")
    assert "\\boxed{411}" in (await one(engine, request(max_tokens=300))).text
    assert (await one(await open_engine("say=a, b"), request())).text == "a, b"
    with pytest.raises(UnknownName) as unknown:
        await open_engine("poetry")
    assert unknown.value.known == ["arithmetic", "babble", "say=TEXT"]
    for bad in ("arithmetic,speed=1", "arithmetic,token_s=fast", "arithmetic,token_s=-1", "arithmetic,token_s"):
        with pytest.raises(InvalidRequest):
            await open_engine(bad)
