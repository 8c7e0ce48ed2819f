from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator import Answer, Budget, JobState, StopReason
from orchestrator.actions import Cancel, Expand, Next, Start
from orchestrator.controller.request import MAX_ATTEMPTS
from orchestrator.cost import ModelCost
from orchestrator.engine import Capability, Delta, Finished, FinishReason, GenerateRequest, Prefilled
from orchestrator.errors import EngineFailed
from orchestrator.testing import Fault, FaultKind, Latency, ScriptedEngine, babble, on_calls
from orchestrator.testing.scripted import ALL_CAPABILITIES
from orchestrator.testing.scripted_abilities import BlackBox
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

from .jobs import an_engine, run_job

WORDS = "one two three four five six seven eight nine ten."  # 12 tokens with the full stop and the end
LENIENT = ALL_CAPABILITIES - {Capability.STRICT_COUNTS}


def one(query: Any, ctx: Any) -> Any:
    (sample,) = yield Expand([query.root])
    return Answer(sample.text, sample)


def three(query: Any, ctx: Any) -> Any:
    samples = yield Expand([query.root], 3)
    return Answer(" | ".join(sample.text for sample in samples))


def fail(after: int, **options: Any) -> Fault:
    return Fault(after_tokens=after, **options)


async def health(engine: Any) -> Any:
    return await engine.health()


def test_a_failure_before_the_first_token_is_tried_again() -> None:
    engine = an_engine(WORDS, faults=on_calls({0: fail(0)}))
    ran = run_virtual(run_job(one, engine))
    assert ran.result.text == WORDS
    assert ran.deltas("0.0") == WORDS
    assert ran.result.usage.model_calls == 2
    assert ran.result.usage.output_tokens == 12
    assert ran.result.usage.prompt_tokens == run_virtual(health(engine)).prompt_tokens


@pytest.mark.parametrize("after", range(1, 12))
def test_a_failure_in_mid_stream_continues_from_the_committed_text(after: int) -> None:
    engine = an_engine(WORDS, faults=on_calls({0: fail(after)}), tokens_per_delta=2)
    ran = run_virtual(run_job(one, engine))
    assert ran.result.text == WORDS
    assert ran.deltas("0.0") == WORDS, "nothing is emitted twice"
    assert ran.result.usage.output_tokens == 12 == run_virtual(health(engine)).output_tokens, "or paid twice"
    assert ran.result.usage.prompt_tokens == run_virtual(health(engine)).prompt_tokens
    assert ran.result.tree["0.0"].output_tokens == 12


def test_all_samples_of_a_broken_request_go_on_each_for_itself() -> None:
    engine = an_engine(WORDS, faults=on_calls({0: fail(10)}), tokens_per_delta=2, latency=Latency(token_s=0.01))
    ran = run_virtual(run_job(three, engine))
    assert ran.result.text == " | ".join([WORDS] * 3)
    assert ran.result.usage.output_tokens == 36 == run_virtual(health(engine)).output_tokens
    assert len(engine.log) == 4
    assert ran.result.usage.peak_parallel_sequences == 3


def test_a_failure_that_is_not_retryable_fails_the_sample_at_once_and_keeps_its_cost() -> None:
    engine = an_engine(WORDS, faults=on_calls({0: fail(4, is_retryable=False)}), tokens_per_delta=2)
    ran = run_virtual(run_job(one, engine))
    assert isinstance(ran.raised, EngineFailed)
    assert ran.result.state is JobState.FAILED
    assert len(engine.log) == 1
    assert ran.result.usage.output_tokens == 4


def test_after_so_many_attempts_the_engines_last_word_is_the_error() -> None:
    engine = an_engine(WORDS, faults=lambda call, request: fail(1, message=f"failure {call}"))
    ran = run_virtual(run_job(one, engine))
    assert len(engine.log) == MAX_ATTEMPTS
    assert ran.raised is not None
    assert f"failure {MAX_ATTEMPTS - 1}" in str(ran.raised)
    assert ran.result.usage.output_tokens == MAX_ATTEMPTS == run_virtual(health(engine)).output_tokens


def test_a_failed_sample_leaves_its_siblings_alone() -> None:
    engine = an_engine(WORDS, faults=lambda call, _: fail(1, is_retryable=False) if call == 1 else None)

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 3), parallel=1)
        found = []
        while (node := (yield Next(stream))) is not None:
            found.append(node.id)
        return Answer(",".join(found))

    ran = run_virtual(run_job(policy, engine))
    assert ran.result.text == "0.0,0.2"


def test_an_engine_that_cannot_continue_starts_over_and_says_so() -> None:
    engine = an_engine(WORDS, faults=on_calls({0: fail(5)}), capabilities=ALL_CAPABILITIES - {Capability.CONTINUE})
    ran = run_virtual(run_job(one, engine))
    assert ran.result.text == WORDS
    assert ran.result.usage.output_tokens == 5 + 12 == run_virtual(health(engine)).output_tokens
    deltas = [event.data for event in ran.events if event.kind == "delta"]
    restart = next(i for i, delta in enumerate(deltas) if delta.get("starts_over"))
    assert "".join(delta["text"] for delta in deltas[restart + 1 :]) == WORDS


def test_a_sample_whose_grant_has_come_in_needs_no_second_attempt() -> None:
    engine = an_engine(babble(), faults=on_calls({0: fail(6)}), tokens_per_delta=2)

    def policy(query: Any, ctx: Any) -> Any:
        (sample,) = yield Expand([query.root], max_tokens=6)
        return Answer(sample.text, sample)

    class EndsBeforeTheLastEvent(ScriptedEngine):
        async def generate(self, request: GenerateRequest) -> AsyncIterator[Any]:
            async for event in super().generate(request):
                if isinstance(event, Finished):
                    raise EngineFailed("gone", model="m")
                yield event

    for broken in (engine, EndsBeforeTheLastEvent(babble(), clock=VirtualClock())):
        ran = run_virtual(run_job(policy, broken))
        assert ran.result.tree["0.0"].finish is FinishReason.LENGTH
        assert ran.result.usage.output_tokens == 6
        assert len(broken.log) == 1


def test_a_hang_ends_at_the_deadline_with_exact_counts() -> None:
    engine = an_engine(WORDS, faults=on_calls({0: Fault(kind=FaultKind.HANG, after_tokens=3)}))
    ran = run_virtual(run_job(one, engine, budget=Budget(max_seconds=10)))
    assert ran.seconds <= 10.25
    assert ran.result.usage.output_tokens == run_virtual(health(engine)).output_tokens
    assert ran.result.stop_reason in {StopReason.DEADLINE, StopReason.FAILED}
    assert ran.result.limited_by == "max_seconds"


class DeafEngine(ScriptedEngine):
    """Does not hear cancellations."""

    def cancel(self, request_id: str) -> None:
        pass


def test_an_engine_that_does_not_answer_a_cancellation_is_closed_and_charged_what_it_may_have_run_ahead() -> None:
    faults = on_calls({0: Fault(kind=FaultKind.HANG, after_tokens=3)})
    engine = DeafEngine(WORDS, faults=faults, clock=VirtualClock())

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 1, max_tokens=50))
        yield Expand([query.root])
        yield Cancel(stream)
        return "done"

    ran = run_virtual(run_job(policy, engine))
    assert ran.result.text == "done"
    assert ran.seconds < 1
    assert ran.result.usage.is_estimated
    hung = ran.result.tree["0.0"]
    assert hung.text == "one two three"
    assert 3 < hung.output_tokens <= 50


def test_a_cancelled_wait_between_attempts_costs_nothing_more() -> None:
    engine = an_engine(WORDS, faults=lambda call, _: fail(2) if call < 2 else None, tokens_per_delta=2)

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 1))
        yield Expand([query.root], model="large")  # 0.15 s: the second attempt has failed, the third waits
        yield Cancel(stream)
        return "done"

    large = an_engine("short", latency=Latency(prefill_s=0.15))
    ran = run_virtual(run_job(policy, engine, large=large))
    assert ran.result.tree["0.0"].output_tokens == 4
    assert ran.result.tree["0.0"].text == "one two three four"
    assert run_virtual(health(engine)).output_tokens == 4


@pytest.mark.parametrize("kind", [FaultKind.OVERRUN, FaultKind.MISCOUNT])
def test_an_engine_that_spends_more_than_was_reserved_stops_the_job_and_is_flagged(kind: FaultKind) -> None:
    engine = an_engine(
        babble(), capabilities=LENIENT, faults=on_calls({0: Fault(kind=kind, extra_tokens=20)}), tokens_per_delta=8
    )

    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], max_tokens=40)
        yield Expand([query.root], max_tokens=40)
        return "never"

    ran = run_virtual(run_job(policy, engine, budget=Budget(max_output_tokens=1000)))
    assert ran.result.usage.overrun_tokens == 20
    assert ran.result.usage.output_tokens == 60
    assert len(engine.log) == 1, "nothing is dispatched after it"
    assert ran.result.stop_reason in {StopReason.OVERRUN, StopReason.FAILED}


class Hostile:
    """Streams whatever it is told to; declares everything but exact counts."""

    def __init__(self, events: Any, *, is_strict: bool = False) -> None:
        self._inner = an_engine(WORDS, capabilities=ALL_CAPABILITIES if is_strict else LENIENT, cost=ModelCost())
        self._events = events
        self.num_requests = 0
        self.cancelled: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def describe(self) -> Any:
        return self._inner.describe()

    def count_prompt_tokens(self, prompt: Any) -> int:
        return self._inner.count_prompt_tokens(prompt)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Any]:
        self.num_requests += 1
        async for event in self._events(request):
            yield event

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    async def release(self, tree_id: str, *, keep: Any = ()) -> None:
        pass

    async def health(self) -> Any:
        return await self._inner.health()

    async def aclose(self) -> None:
        pass

    def tokenize(self, text: str) -> Any:
        return self._inner.tokenize(text)

    def detokenize(self, ids: Any) -> str:
        return self._inner.detokenize(ids)


def test_an_engine_that_never_stops_is_cut_soon_after_its_limit() -> None:
    async def forever(request: GenerateRequest) -> AsyncIterator[Any]:
        yield Prefilled(5)
        while True:
            await asyncio.sleep(0)
            yield Delta(0, "x ", 1)

    engine = Hostile(forever)

    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], max_tokens=10)
        return "never"

    ran = run_virtual(run_job(policy, engine))
    assert ran.result.usage.overrun_tokens <= 33
    assert ran.result.usage.overrun_tokens > 0
    assert engine.cancelled


def test_an_engine_that_hangs_after_its_last_finished_is_not_waited_for() -> None:
    async def hangs(request: GenerateRequest) -> AsyncIterator[Any]:
        yield Prefilled(5)
        yield Delta(0, "hi", 1)
        yield Finished(0, FinishReason.END, 1)
        await asyncio.sleep(10_000)

    ran = run_virtual(run_job(one, Hostile(hangs)))
    assert ran.result.text == "hi"
    assert ran.seconds < 1


def test_a_stream_that_ends_early_is_a_failure_that_is_tried_again() -> None:
    async def ends(request: GenerateRequest) -> AsyncIterator[Any]:
        yield Prefilled(5)
        yield Delta(0, "x", 1)

    engine = Hostile(ends)
    ran = run_virtual(run_job(one, engine))
    assert isinstance(ran.raised, EngineFailed)
    assert "too early" in str(ran.raised)
    assert engine.num_requests == MAX_ATTEMPTS
    assert ran.result.usage.output_tokens == MAX_ATTEMPTS


def test_events_after_the_end_of_a_sample_are_not_counted() -> None:
    async def chatters(request: GenerateRequest) -> AsyncIterator[Any]:
        yield Prefilled(5)
        for index in (0, 0, 0, 1, 2):
            yield Delta(index, "x", 1)
            yield Finished(index, FinishReason.END, 1)

    ran = run_virtual(run_job(three, Hostile(chatters)))
    assert ran.result.text == "x | x | x"
    assert ran.result.usage.output_tokens == 3


@pytest.mark.parametrize("event", [Delta(7, "x", 1), Finished(-9, FinishReason.END, 0), "garbage", None])
def test_events_that_make_no_sense_do_not_hang_or_crash_a_job(event: Any) -> None:
    async def nonsense(request: GenerateRequest) -> AsyncIterator[Any]:
        yield Prefilled(5)
        yield event

    ran = run_virtual(run_job(one, Hostile(nonsense)))
    assert isinstance(ran.raised, EngineFailed)
    assert ran.result.state is JobState.FAILED


@pytest.mark.parametrize("error", [ValueError("what?"), KeyError("x"), OSError("pipe"), AssertionError()])
def test_a_foreign_exception_of_an_engine_is_an_engine_failure(error: Exception) -> None:
    async def raises(request: GenerateRequest) -> AsyncIterator[Any]:
        yield Prefilled(5)
        raise error

    ran = run_virtual(run_job(three, Hostile(raises)))
    assert isinstance(ran.raised, EngineFailed)
    assert type(error).__name__ in str(ran.raised)


def test_a_retry_that_the_budget_cannot_pay_for_keeps_the_text_it_has() -> None:
    engine = an_engine(WORDS, faults=on_calls({0: fail(4)}), tokens_per_delta=2)
    ran = run_virtual(run_job(one, engine, budget=Budget(max_model_calls=1)))
    assert ran.result.tree["0.0"].text == "one two three four"
    assert ran.result.usage.model_calls == 1
    assert ran.result.limited_by == "max_model_calls"


def test_a_black_box_is_charged_what_it_reports_and_flagged_when_that_is_a_guess() -> None:
    engine = BlackBox(an_engine(WORDS, capabilities=LENIENT), is_estimated=True)
    ran = run_virtual(run_job(three, engine))
    assert ran.result.usage.is_estimated
    assert ran.result.usage.output_tokens == 36
    assert all(node.token_ids is None for node in ran.result.tree if not node.is_root)


def test_an_engine_that_cannot_release_does_not_spoil_the_result() -> None:
    class Clings(ScriptedEngine):
        async def release(self, tree_id: str, *, keep: Any = ()) -> None:
            if len(self.log) == 1:
                raise OSError("gone")
            await asyncio.sleep(1e9)

    ran = run_virtual(run_job(one, Clings(WORDS, clock=VirtualClock())))
    assert ran.result.text == WORDS
