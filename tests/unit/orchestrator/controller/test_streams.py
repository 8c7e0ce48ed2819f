from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Answer, Budget, JobState
from orchestrator.actions import Cancel, Expand, Next, Start, Stream
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted, PolicyFailed
from orchestrator.testing import Latency, babble
from orchestrator.testing.scripts import Reply
from orchestrator.testing.virtual_time import run_virtual

from .jobs import an_engine, run_job

SLOW = Latency(prefill_s=0.1, token_s=0.01, jitter=0.8)


def lengths(prompt: Any, seed: int) -> str:
    """From 2 to 81 words."""
    return "word " * (2 + seed % 80)


@pytest.mark.parametrize("parallel", [1, 2, 3, 7])
def test_sample_i_starts_when_sample_i_minus_parallel_has_been_delivered(parallel: int) -> None:
    engine = an_engine(lengths, latency=SLOW)
    started: list[int] = []

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 7), parallel=parallel)
        while (yield Next(stream)) is not None:
            started.append(sum(len(request.samples) for request in engine.log))
        return "done"

    ran = run_virtual(run_job(policy, engine, replays=False))
    for delivered, number in enumerate(started, start=1):
        window = parallel + delivered - 1  # what was let in by the last delivery may be on its way to the engine
        assert min(7, window) - 1 <= number <= min(7, window)
    assert ran.result.usage.peak_parallel_sequences == min(parallel, 7)


def test_order_of_submission_is_kept_and_order_of_arrival_is_by_length() -> None:
    def policy(order: str) -> Any:
        def decide(query: Any, ctx: Any) -> Any:
            stream = yield Start(Expand([query.root], 6), parallel=6, order=order)
            ids = []
            while (node := (yield Next(stream))) is not None:
                ids.append((node.output_tokens, node.id))
            return Answer(";".join(f"{n} {i}" for n, i in ids))

        return decide

    engine = an_engine(lengths, latency=Latency(token_s=0.01))
    submitted = run_virtual(run_job(policy("submission"), engine)).result.text or ""
    assert [part.split()[1] for part in submitted.split(";")] == [f"0.{i}" for i in range(6)]
    arrived = (
        run_virtual(run_job(policy("arrival"), an_engine(lengths, latency=Latency(token_s=0.01)))).result.text or ""
    )
    tokens = [int(part.split()[0]) for part in arrived.split(";")]
    assert tokens == sorted(tokens)
    assert sorted(arrived.split(";")) == sorted(submitted.split(";"))


def test_cancelling_pays_exactly_for_what_was_generated() -> None:
    engine = an_engine(babble(), latency=Latency(prefill_s=0.1, token_s=0.01), tokens_per_delta=4)
    short = an_engine("a b c", latency=Latency(token_s=0.35))

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 5), parallel=3)
        yield Expand([query.root], model="large")
        yield Cancel(stream)
        yield Cancel(stream)
        assert (yield Next(stream)) is None
        return "done"

    ran = run_virtual(run_job(policy, engine, large=short))
    health = run_virtual(_health(engine))
    usage = ran.result.usage
    cut = [node for node in ran.result.tree if node.finish is FinishReason.CANCELLED]
    assert len(cut) == 3
    assert all(node.output_tokens > 0 for node in cut)
    assert health.output_tokens == sum(node.output_tokens for node in cut)
    assert usage.output_tokens == health.output_tokens + ran.result.tree["1.0"].output_tokens
    assert not usage.is_estimated


async def _health(engine: Any) -> Any:
    return await engine.health()


def test_streams_left_open_are_ended_and_paid_for_when_the_policy_returns() -> None:
    engine = an_engine(babble(), latency=Latency(token_s=0.01))

    def policy(query: Any, ctx: Any) -> Any:
        yield Start(Expand([query.root], 4), parallel=2)
        other = yield Start(Expand([query.root], 4, max_tokens=20), parallel=2)
        first = yield Next(other)
        return Answer("done", first)

    ran = run_virtual(run_job(policy, engine))
    assert ran.result.state is JobState.SUCCEEDED
    assert run_virtual(_health(engine)).output_tokens == ran.result.usage.output_tokens


def test_next_after_the_end_is_none_as_often_as_it_is_asked() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 1))
        ends = []
        for _ in range(4):
            ends.append((yield Next(stream)) is None)  # no yield in comprehensions
        return Answer(str(ends))

    assert run_virtual(run_job(policy)).result.text == "[False, True, True, True]"


def test_streams_that_were_not_started_fail_the_policy() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Next(Stream(99))

    ran = run_virtual(run_job(policy))
    assert isinstance(ran.raised, PolicyFailed)
    assert "99" in str(ran.raised)


@pytest.mark.parametrize("parallel", [0, -3])
def test_a_window_of_nothing_fails_the_policy(parallel: int) -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Start(Expand([query.root], 2), parallel=parallel)

    assert isinstance(run_virtual(run_job(policy)).raised, PolicyFailed)


@pytest.mark.parametrize("cap", [40, 100, 300, 1000])
def test_two_interleaved_streams_share_a_budget_without_deadlock(cap: int) -> None:
    engine = an_engine(lengths, latency=SLOW)

    def policy(query: Any, ctx: Any) -> Any:
        streams = []
        for _ in range(2):
            streams.append((yield Start(Expand([query.root], 8, max_tokens=90), parallel=3)))
        alive, nodes = [True, True], []
        while any(alive):
            for number, stream in enumerate(streams):
                if not alive[number]:
                    continue
                try:
                    node = yield Next(stream)
                except BudgetExhausted:
                    node = None
                if node is None:
                    alive[number] = False
                else:
                    nodes.append(node.id)
        return Answer(",".join(nodes))

    ran = run_virtual(run_job(policy, engine, budget=Budget(max_output_tokens=cap, answer_reserve_tokens=8)))
    assert ran.result.limited_by == ("max_output_tokens" if cap < 1000 else ran.result.limited_by)
    assert run_virtual(_health(engine)).output_tokens == ran.result.usage.output_tokens <= cap
    assert ran.seconds < 60


def test_a_stream_that_cannot_be_paid_for_raises_at_its_first_next() -> None:
    seen: list[BudgetExhausted] = []

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 3, max_tokens=50))
        try:
            yield Next(stream)
        except BudgetExhausted as error:
            seen.append(error)
        return "poor"

    ran = run_virtual(run_job(policy, budget=Budget(max_output_tokens=20, answer_reserve_tokens=10), replays=False))
    assert seen[0].limit == "max_output_tokens"
    assert ran.result.limited_by == "max_output_tokens"
    assert ran.result.text == "poor"


def test_several_parents_in_one_stream_keep_their_order() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        parents = yield Expand([query.root], 2, max_tokens=3)
        stream = yield Start(Expand(parents.nodes, [2, 3]), parallel=2)
        found = []
        while (node := (yield Next(stream))) is not None:
            found.append(f"{node.parent.id}>{node.id}")
        return Answer(",".join(found))

    ran = run_virtual(run_job(policy))
    assert ran.result.text == "0.0>1.0,0.0>1.1,0.1>1.2,0.1>1.3,0.1>1.4"


def test_samples_without_text_are_nodes_too() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 2)
        return Answer(repr([node.text for node in samples]))

    ran = run_virtual(run_job(policy, an_engine(lambda _p, _s: Reply(text=""))))
    assert ran.result.text == "['', '']"
