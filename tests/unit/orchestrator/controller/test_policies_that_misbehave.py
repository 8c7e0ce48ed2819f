from __future__ import annotations

import contextlib
from typing import Any

import pytest

from orchestrator import Answer, Budget, JobState, StopReason
from orchestrator.actions import CallTool, Cancel, Commit, Conclude, Expand, Next, Propose, Release, Score, Start
from orchestrator.controller.run import MAX_IDLE_ACTIONS, MAX_REFUSALS
from orchestrator.errors import BudgetExhausted, PolicyFailed, TtcError
from orchestrator.testing import Latency, arithmetic
from orchestrator.testing.virtual_time import run_virtual
from orchestrator.tree import Node

from .jobs import an_engine, run_job


def test_a_plain_generator_function_is_a_policy_with_free_parameters() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], ctx.params.width)
        return Answer(f"{len(samples)} {query.problem}")

    assert run_virtual(run_job(policy, params={"width": 3}, problem="why?")).result.text == "3 why?"


def test_the_randomness_of_a_policy_derives_from_the_seed() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Propose(Answer("x"))
        return str(ctx.rng.integers(10**9))

    texts = [run_virtual(run_job(policy, seed=seed)).result.text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("error", [ValueError("bad"), StopIteration("x"), RecursionError(), TtcError("odd")])
def test_what_a_policy_raises_fails_its_job_and_no_other(error: Exception) -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 1)
        raise error

    ran = run_virtual(run_job(policy))
    assert ran.result.state is JobState.FAILED
    assert isinstance(ran.raised, TtcError)


def test_a_policy_that_raises_at_once_fails_its_job() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        raise ValueError("at once")
        yield

    assert "at once" in str(run_virtual(run_job(policy)).raised)


GARBAGE = [
    None,
    42,
    "Expand",
    Expand,
    object(),
    Propose("text"),  # type: ignore[arg-type]
    Propose(Answer(5)),  # type: ignore[arg-type]
    Propose(Answer("x", confidence=7.0, confidence_kind="verifier")),
    Propose(Answer("x", confidence=float("nan"), confidence_kind="verifier")),
    Propose(Answer("x", alternatives=(("y",),))),  # type: ignore[arg-type]
    Score(None, "generative"),  # type: ignore[arg-type]
    Score(["0"], "generative"),  # type: ignore[list-item]
    Release(5),  # type: ignore[arg-type]
    Commit(None),  # type: ignore[arg-type]
    Conclude("0"),  # type: ignore[arg-type]
    CallTool(Node(id="0"), "f", {"x": object()}),
    CallTool(Node(id="nowhere"), "f", {}),
    Next(None),  # type: ignore[arg-type]
    Cancel("s"),  # type: ignore[arg-type]
    Start("expand"),  # type: ignore[arg-type]
    Expand([Node(id="made-up", parent=Node(id="0"), text="I was never sampled")]),
    Expand([Node(id="made-up")], 1),
    Expand([], 1, stop=(5,)),  # type: ignore[arg-type]
    Expand([], 1, stop=("",)),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda value: f"{value!r:.40}")
def test_garbage_fails_the_policy_and_costs_nothing(garbage: Any) -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield garbage
        return "went on"

    ran = run_virtual(run_job(policy, tools={"f": str}))
    assert isinstance(ran.raised, PolicyFailed)
    assert ran.result.state is JobState.FAILED
    assert ran.result.usage.total_tokens == 0


def test_a_policy_may_survive_its_own_garbage() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        try:
            yield "garbage"
        except PolicyFailed:
            samples = yield Expand([query.root], 1)
        return samples[0]

    assert run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0)))).result.text == "6"


@pytest.mark.parametrize(
    "value",
    [42, ["x"], object(), Answer(5), Answer("x", alternatives=("ab", "c")), Answer("x", node="0")],  # type: ignore[arg-type]
    ids=repr,
)
def test_a_return_value_that_is_no_answer_fails_the_job_and_leaves_nothing_running(value: Any) -> None:
    engine = an_engine(arithmetic(accuracy=1.0), latency=Latency(token_s=0.01))

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 4), parallel=4)
        yield Next(stream)
        return value

    ran = run_virtual(run_job(policy, engine))
    assert isinstance(ran.raised, PolicyFailed)
    assert ran.result.text == "6", "the majority stands beside the error"
    assert ran.result.usage.output_tokens == engine._counters.output_tokens


def test_a_policy_that_returns_a_node_or_a_string_has_answered() -> None:
    def node(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 1)
        return samples[0]

    def text(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 1)
        return "so be it"

    assert run_virtual(run_job(node, an_engine(arithmetic(accuracy=1.0)))).result.text == "6"
    assert run_virtual(run_job(node, an_engine("just words"))).result.text == "just words"
    assert run_virtual(run_job(text)).result.text == "so be it"


def test_a_policy_that_swallows_every_refusal_is_ended() -> None:
    refusals = []

    def policy(query: Any, ctx: Any) -> Any:
        while True:
            try:
                yield Expand([query.root], 1, max_tokens=100)
            except BudgetExhausted as error:
                refusals.append(error)

    budget = Budget(max_output_tokens=300)
    ran = run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0)), budget=budget))
    assert ran.result.text == "6"
    assert ran.result.stop_reason is StopReason.BUDGET
    assert len(refusals) <= 2 * (MAX_REFUSALS + 1)  # its replay included


def test_free_actions_between_refusals_do_not_keep_a_job_alive() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        while True:
            try:
                yield Expand([query.root], 1)
            except BudgetExhausted:
                yield Propose(Answer("still here"))

    ran = run_virtual(run_job(policy, budget=Budget(max_output_tokens=50)))
    assert ran.result.text == "still here"


def test_a_policy_that_swallows_its_deadline_is_ended() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        while True:
            with contextlib.suppress(BudgetExhausted):
                yield Expand([query.root], 1)

    engine = an_engine(arithmetic(accuracy=1.0), latency=Latency(token_s=0.01))
    ran = run_virtual(run_job(policy, engine, budget=Budget(max_seconds=5)))
    assert ran.result.text == "6"
    assert ran.result.stop_reason is StopReason.DEADLINE
    assert ran.seconds <= 5.3


def test_a_policy_that_only_takes_free_actions_is_ended() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        while True:
            yield Propose(Answer("round and round"))

    ran = run_virtual(run_job(policy))
    assert isinstance(ran.raised, PolicyFailed)
    assert f"{MAX_IDLE_ACTIONS}" in str(ran.raised)
    assert ran.result.text == "round and round"


def test_many_actions_that_do_buy_something_are_no_reason_to_end_a_policy() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        for _ in range(2 * MAX_REFUSALS):
            yield Expand([query.root], 1, max_tokens=1)
            yield Propose(Answer("x"))
        return "done"

    assert run_virtual(run_job(policy)).result.text == "done"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["yields", "raises", "catches"])
def test_a_policy_that_resists_being_closed_is_left_alone(how: str) -> None:
    def policy(query: Any, ctx: Any) -> Any:
        try:
            yield Propose(Answer("kept"))
            while True:
                yield Expand([query.root], 1)
        except GeneratorExit:
            if how == "catches":
                yield Expand([query.root], 1)
        finally:
            if how == "yields":
                yield Expand([query.root], 1)
            if how == "raises":
                raise ValueError("in close")

    def cancel(ttc: Any, event: Any) -> None:
        if event.kind == "sample":
            ttc.cancel_all()

    ran = run_virtual(run_job(policy, on_event=cancel, replays=False))
    assert ran.result.state is JobState.CANCELLED
    assert ran.result.text == "kept"


def test_a_finally_that_yields_after_a_refusal_is_still_performed() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        try:
            while True:
                yield Expand([query.root], 1, max_tokens=30)
        finally:
            yield Propose(Answer("in the end"))

    ran = run_virtual(run_job(policy, budget=Budget(max_output_tokens=100)))
    assert ran.result.text == "in the end"
    assert ran.result.stop_reason is StopReason.BUDGET


def test_a_watcher_that_raises_does_not_disturb_the_job() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 2)
        return samples[0]

    def watch(ttc: Any, event: Any) -> None:
        raise RuntimeError("a bug in a watcher")

    ran = run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0)), on_event=watch))
    assert ran.result.text == "6"
