"""What every engine promises, as tests: subclass `EngineContract` in a test module and give it an engine.

The suite asserts structure, not text, so it runs on real models, scripted ones and remote servers alike; what an engine
declares not to be able to do is skipped. Suites for tokenizing, scoring, embedding and logits are in
`ability_contracts`. Tests are coroutines: run pytest-asyncio in auto mode, or mark the subclass.
"""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Capability,
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    Span,
    Tokenizes,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import CapabilityMissing, ContextOverflow, EngineFailed
from orchestrator.reply_form import ToolOffer
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.testing.transcript import Transcript, close_stream

_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class CutAt:
    """A monitor that cuts every sample at its n-th token.

    Attributes:
        num_tokens: n.
        num_logprobs: How many top log probabilities it insists on; without them it never cuts.
    """

    name: ClassVar[str] = "cut_at"
    num_tokens: int
    num_logprobs: int = 0

    def watch(self) -> _CutWatcher:
        """Fresh state for one sample."""
        return _CutWatcher(self)


class _CutWatcher:
    def __init__(self, rule: CutAt) -> None:
        self._rule = rule
        self._seen = 0

    def sees(self, text: str, token: int | str, top_logprobs: Sequence[float]) -> bool:
        assert isinstance(text, str)
        assert isinstance(token, int | str)
        self._seen += 1
        is_descending = list(top_logprobs) == sorted(top_logprobs, reverse=True)
        has_logprobs = len(top_logprobs) >= self._rule.num_logprobs and is_descending
        return has_logprobs and self._seen == self._rule.num_tokens


class EngineSuite:
    """What the suites share: the engine under test and hints about it.

    Attributes:
        ask: A question to which the model answers at some length.
        is_repeatable: Whether prompt and seed (or greedy decoding) determine the text exactly.
        patience_s: How long to wait for something that must happen "at once".
        stall_s: How long to stop reading in the test of back-pressure.
    """

    ask: ClassVar[str] = "Count from one to five hundred in words, and do not leave out a single number."
    is_repeatable: ClassVar[bool] = False
    patience_s: ClassVar[float] = 20.0
    stall_s: ClassVar[float] = 0.3

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine; must be overridden. It may be shared by many tests."""
        raise NotImplementedError("override the fixture `engine`")

    @pytest.fixture
    def disposable_engine(self) -> Engine:
        """An engine that a test may close; without one, tests that close are skipped."""
        pytest.skip("no disposable_engine was given")

    def prompt(self, text: str | None = None, *spans: Span) -> Prompt:
        return Prompt((Message("user", self.ask if text is None else text),), spans)

    def request(
        self, *max_tokens: int, prompt: Prompt | None = None, sampling: Sampling | None = None, **options: Any
    ) -> GenerateRequest:
        """A request with one sample for each of ``max_tokens``. Any: fields of GenerateRequest."""
        number = next(_NUMBERS)
        return GenerateRequest(
            request_id=f"contract-{number}",
            prompt=prompt or self.prompt(),
            samples=tuple(SampleSpec(seed=1000 + place, max_tokens=limit) for place, limit in enumerate(max_tokens)),
            sampling=sampling or Sampling(temperature=0.8),
            tree_id=f"tree-{number}",
            **options,
        )

    def need(self, engine: Engine, *capabilities: Capability) -> None:
        """Skips the test if the engine lacks one of them."""
        for capability in capabilities:
            if capability not in engine.describe().capabilities:
                pytest.skip(f"the engine does not declare {capability.value}")

    async def idle(self, engine: Engine) -> EngineHealth:
        """Its health once nothing is being generated."""
        async with asyncio.timeout(self.patience_s):
            while (health := await engine.health()).live_sequences:  # noqa: ASYNC110  # engines have no event for it
                await asyncio.sleep(0.01)
        return health


class EngineContract(EngineSuite):
    """The promises of `Engine`."""

    # Describing itself

    async def test_it_is_an_engine_and_describes_itself_the_same_every_time(self, engine: Engine) -> None:
        assert isinstance(engine, Engine)
        description = engine.describe()
        assert description == engine.describe()
        assert description.name
        assert description.context_length > 0
        assert (await engine.health()).is_ready

    # Streams (Transcript checks the order of events, sizes, counts, ids and text of every stream)

    async def test_one_sample_ends_by_itself_or_at_its_limit(self, engine: Engine) -> None:
        transcript = await Transcript.of(engine, self.request(24))
        sample = transcript.only
        assert sample.reason in {FinishReason.END, FinishReason.LENGTH}
        if sample.reason is FinishReason.LENGTH and engine.describe().counts_exactly:
            assert sample.num_tokens == 24

    async def test_several_samples_share_one_prefill_and_keep_their_own_limits(self, engine: Engine) -> None:
        transcript = await Transcript.of(engine, self.request(1, 7, 40))
        single = await Transcript.of(engine, self.request(1))
        assert transcript.prompt_tokens == single.prompt_tokens
        for sample, limit in zip(transcript.samples, (1, 7, 40), strict=True):
            assert sample.reason in {FinishReason.END, FinishReason.LENGTH}
            if engine.describe().counts_exactly:
                assert 1 <= sample.num_tokens <= limit
                assert sample.num_tokens == limit or sample.reason is FinishReason.END

    async def test_the_length_of_the_prompt_is_what_the_tokenizer_says(self, engine: Engine) -> None:
        if not isinstance(engine, Tokenizes) or not engine.describe().counts_exactly:
            pytest.skip("the engine does not count prompts exactly")
        request = self.request(2)
        transcript = await Transcript.of(engine, request)
        assert transcript.prompt_tokens == engine.count_prompt_tokens(request.prompt)

    async def test_health_counts_what_was_read_and_written(self, engine: Engine) -> None:
        self.need(engine, Capability.STRICT_COUNTS)
        before = await self.idle(engine)
        transcripts = [await Transcript.of(engine, self.request(9, 5)), await Transcript.of(engine, self.request(33))]
        after = await self.idle(engine)
        assert after.requests - before.requests == 2
        assert after.output_tokens - before.output_tokens == sum(item.num_tokens for item in transcripts)
        assert after.prompt_tokens - before.prompt_tokens == sum(item.prompt_tokens for item in transcripts)

    async def test_concurrent_requests_do_not_mix(self, engine: Engine) -> None:
        requests = [self.request(20, 12, prompt=self.prompt(f"{self.ask} Begin with {word}.")) for word in _WORDS]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(Transcript.of(engine, request)) for request in requests]
        if self.is_repeatable:
            for request, task in zip(requests, tasks, strict=True):
                alone = await Transcript.of(engine, request)
                assert [sample.text for sample in alone.samples] == [sample.text for sample in task.result().samples]

    async def test_greedy_samples_and_equal_seeds_repeat_themselves(self, engine: Engine) -> None:
        if not self.is_repeatable:
            pytest.skip("the engine does not promise to repeat itself")
        for sampling in (GREEDY, Sampling(temperature=1.0)):
            one, two = [await Transcript.of(engine, self.request(30, sampling=sampling)) for _ in range(2)]
            assert one.only.text == two.only.text
            assert one.only.token_ids == two.only.token_ids

    # Endings

    @pytest.mark.parametrize("stop", ["e", " ", "\n\n"])
    async def test_a_stop_string_ends_the_sample_with_the_token_that_completes_it(
        self, engine: Engine, stop: str
    ) -> None:
        transcript = await Transcript.of(engine, self.request(60, stop=("\x00never", stop)))
        sample = transcript.only
        assert (stop in sample.text) == (sample.reason is FinishReason.STOP)
        if sample.reason is FinishReason.STOP:
            assert sample.finished is not None
            assert sample.finished.detail == stop
            if isinstance(engine, Tokenizes) and sample.token_ids is not None:
                assert stop not in engine.detokenize(sample.token_ids[:-1]), "it went on after the stop string"

    async def test_a_monitor_cuts_each_sample_exactly_where_it_says(self, engine: Engine) -> None:
        transcript = await Transcript.of(engine, self.request(40, 40, monitors=(CutAt(11), CutAt(30))))
        for sample in transcript.samples:
            if sample.reason is FinishReason.END:
                continue  # the model had less to say
            assert sample.finished is not None
            assert (sample.reason, sample.finished.detail) == (FinishReason.MONITOR, "cut_at")
            if engine.describe().counts_exactly:
                assert sample.num_tokens == 11

    async def test_a_monitor_gets_the_log_probabilities_it_asks_for(self, engine: Engine) -> None:
        self.need(engine, Capability.LOGPROBS)
        request = self.request(20, monitors=(CutAt(3, num_logprobs=4),))
        assert (await Transcript.of(engine, request)).only.reason in {FinishReason.MONITOR, FinishReason.END}

    async def test_log_probabilities_come_with_every_token_when_asked_for(self, engine: Engine) -> None:
        self.need(engine, Capability.LOGPROBS)
        sample = (await Transcript.of(engine, self.request(10, num_logprobs=3))).only
        assert any(delta.logprobs for delta in sample.deltas)

    async def test_a_schema_or_grammar_is_obeyed(self, engine: Engine) -> None:
        self.need(engine, Capability.GRAMMAR)
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        sample = (await Transcript.of(engine, self.request(80, json_schema=schema, sampling=GREEDY))).only
        if sample.reason is FinishReason.END:
            assert isinstance(json.loads(sample.text)["n"], int)
        sample = (await Transcript.of(engine, self.request(20, grammar='root ::= "yes" | "no"'))).only
        assert sample.text in {"yes", "no"}

    # Stopping from outside

    async def test_cancel_ends_every_live_sample_with_exact_counts_and_then_the_stream(self, engine: Engine) -> None:
        request = self.request(2000, 2000, prompt=self.prompt())
        transcript = Transcript(engine, request)
        async with asyncio.timeout(self.patience_s):
            async for event in transcript.events():
                if isinstance(event, Delta):
                    engine.cancel(request.request_id)
        reasons = {sample.reason for sample in transcript.samples}
        assert reasons <= {FinishReason.CANCELLED, FinishReason.END}
        assert (await self.idle(engine)).live_sequences == 0

    async def test_cancel_of_an_unknown_or_finished_request_is_ignored(self, engine: Engine) -> None:
        engine.cancel("no-such-request")
        request = self.request(2)
        await Transcript.of(engine, request)
        engine.cancel(request.request_id)
        assert (await Transcript.of(engine, self.request(2))).num_tokens >= 1

    async def test_cancel_leaves_other_requests_alone(self, engine: Engine) -> None:
        doomed = self.request(500)

        async def cancelled() -> None:
            async for event in engine.generate(doomed):
                if isinstance(event, Delta):
                    engine.cancel(doomed.request_id)

        async with asyncio.TaskGroup() as group:
            group.create_task(cancelled())
            survivor = group.create_task(Transcript.of(engine, self.request(15)))
        assert survivor.result().only.reason in {FinishReason.END, FinishReason.LENGTH}

    async def test_closing_the_stream_early_stops_the_work(self, engine: Engine) -> None:
        events = engine.generate(self.request(2000, 2000))
        await _read_until(events, Delta)
        await close_stream(events)
        before = await self.idle(engine)
        await asyncio.sleep(self.stall_s)
        assert (await engine.health()).output_tokens == before.output_tokens, "tokens are generated that nobody reads"
        assert (await Transcript.of(engine, self.request(2))).num_tokens >= 1

    async def test_cancelling_the_reading_task_stops_the_work(self, engine: Engine) -> None:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(Transcript.of(engine, self.request(2000, 2000)))
            await asyncio.sleep(self.stall_s / 10)
            reader.cancel()
        assert (await self.idle(engine)).live_sequences == 0

    async def test_a_reader_that_stops_reading_is_not_run_away_from(self, engine: Engine) -> None:
        self.need(engine, Capability.STRICT_COUNTS)
        before = await self.idle(engine)
        transcript = Transcript(engine, self.request(2000, 2000))
        async with aclosing(transcript.events()) as events:
            await _read_until(events, Delta)
            await asyncio.sleep(self.stall_s)
            ahead = (await engine.health()).output_tokens - before.output_tokens - transcript.num_tokens
            assert ahead <= MAX_UNREAD_TOKENS * len(transcript.samples)
        await self.idle(engine)

    # Refusals

    async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(self, engine: Engine) -> None:
        context_length = engine.describe().context_length
        request = self.request(4, prompt=self.prompt("so many words " * context_length))
        with pytest.raises(ContextOverflow) as caught:
            await Transcript.of(engine, request)
        assert caught.value.context_length == context_length
        assert caught.value.prompt_tokens >= context_length
        assert (await self.idle(engine)).is_ready

    @pytest.mark.parametrize(
        "capability", [Capability.CONTINUE, Capability.LOGPROBS, Capability.GRAMMAR, Capability.TOOLS]
    )
    async def test_what_the_engine_lacks_is_refused_by_name(self, engine: Engine, capability: Capability) -> None:
        if capability in engine.describe().capabilities:
            pytest.skip(f"the engine has {capability.value}")
        request = {
            Capability.CONTINUE: self.request(4, prompt=self.prompt(None, Span("I"))),
            Capability.LOGPROBS: self.request(4, num_logprobs=2),
            Capability.GRAMMAR: self.request(4, json_schema={"type": "object"}),
            Capability.TOOLS: self.request(4, tools=ToolOffer(functions=({"name": "look"},))),
        }[capability]
        with pytest.raises(CapabilityMissing) as caught:
            await Transcript.of(engine, request)
        assert (caught.value.model, caught.value.capability) == (engine.describe().name, capability.value)

    @pytest.mark.parametrize(
        "text", ["", " ", "\0", "日本語のテキスト 🎉 é\u0301 \u202e", "<|im_end|></s>[INST]{{x}}{% y %}"]
    )
    async def test_odd_prompts_are_read(self, engine: Engine, text: str) -> None:
        assert (await Transcript.of(engine, self.request(3, prompt=self.prompt(text)))).prompt_tokens >= 0

    async def test_a_prompt_of_200_kilobytes_is_read_or_refused_and_blocks_no_one(self, engine: Engine) -> None:
        try:
            await Transcript.of(engine, self.request(1, prompt=self.prompt("lorem ipsum " * 17_000)))
        except ContextOverflow:
            assert engine.describe().context_length < 200_000
        assert (await Transcript.of(engine, self.request(1))).num_tokens >= 1

    # Continuing

    async def test_a_sample_is_continued_from_its_ids(self, engine: Engine) -> None:
        self.need(engine, Capability.CONTINUE)
        first = await Transcript.of(engine, self.request(8, sampling=GREEDY))
        description = engine.describe()
        continued = self.prompt(None, first.only.span(description.tokenizer))
        second = await Transcript.of(engine, self.request(8, prompt=continued, sampling=GREEDY))
        if first.only.token_ids is not None and description.counts_exactly:
            assert second.prompt_tokens == first.prompt_tokens + len(first.only.token_ids)
        if self.is_repeatable:
            whole = await Transcript.of(engine, self.request(16, sampling=GREEDY))
            if first.only.token_ids is not None and second.only.token_ids is not None:
                assert first.only.token_ids + second.only.token_ids == whole.only.token_ids
            else:
                assert first.only.text + second.only.text == whole.only.text

    async def test_a_reply_is_continued_from_text_and_foreign_ids_are_not_trusted(self, engine: Engine) -> None:
        self.need(engine, Capability.CONTINUE)
        by_text = self.prompt(None, Span("One, two, "), Span("three"))
        foreign = self.prompt(None, Span("One, two, ", (1, 2, 3), "no-such-tokenizer"), Span("three"))
        one = await Transcript.of(engine, self.request(6, prompt=by_text, sampling=GREEDY))
        two = await Transcript.of(engine, self.request(6, prompt=foreign, sampling=GREEDY))
        assert one.prompt_tokens == two.prompt_tokens
        if self.is_repeatable:
            assert one.only.text == two.only.text

    async def test_prefixes_are_cached_within_a_tenant_only_and_released_without_harm(self, engine: Engine) -> None:
        request = self.request(4)
        await Transcript.of(engine, request)
        again = self.request(4, cache_salt="another tenant of the contract suite")
        assert (await Transcript.of(engine, again)).prefilled == Prefilled(
            (await Transcript.of(engine, self.request(4))).prompt_tokens, 0
        )
        await engine.release(request.tree_id, keep=[request.prompt])
        await engine.release("no-such-tree")
        assert (await Transcript.of(engine, self.request(4))).num_tokens >= 1

    # The end

    async def test_a_closed_engine_refuses_requests_and_may_be_closed_again(self, disposable_engine: Engine) -> None:
        await Transcript.of(disposable_engine, self.request(2))
        await disposable_engine.aclose()
        await disposable_engine.aclose()
        with pytest.raises(EngineFailed) as caught:
            await Transcript.of(disposable_engine, self.request(2))
        assert caught.value.model == disposable_engine.describe().name

    async def test_closing_an_engine_ends_the_streams_it_serves(self, disposable_engine: Engine) -> None:
        events = disposable_engine.generate(self.request(2000))
        async with asyncio.timeout(self.patience_s):
            await _read_until(events, Delta)
            await disposable_engine.aclose()
            try:
                async for event in events:
                    last = event
                assert isinstance(last, Finished)
            except EngineFailed as error:
                assert error.model == disposable_engine.describe().name  # noqa: PT017  # either end is right


_WORDS = ("one", "ninety", "seven")


async def _read_until(events: AsyncIterator[object], kind: type) -> None:
    async for event in events:
        if isinstance(event, kind):
            return
    raise AssertionError(f"the stream ended before a {kind.__name__}")
