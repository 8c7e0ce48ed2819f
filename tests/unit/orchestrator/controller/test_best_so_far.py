from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Answer, Budget, JobState, Orchestrator, StopReason
from orchestrator.actions import Commit, Conclude, Expand, Next, Propose, Score, Start
from orchestrator.controller.best_so_far import most_alike
from orchestrator.engine import Message
from orchestrator.errors import BudgetExhausted, EngineFailed, NoAnswer, PolicyFailed
from orchestrator.events import Event
from orchestrator.testing import Latency, arithmetic, babble
from orchestrator.testing.virtual_time import run_virtual
from orchestrator.tree import Node
from orchestrator.verifier import Candidate

from .jobs import PROBLEM, an_engine, run_job

VOTES = ["\\boxed{1}", "\\boxed{2}", "\\boxed{2}", "nothing"]


def thinks_or_says(answer: str) -> Any:
    def script(prompt: Any, seed: int) -> Any:
        return f"{answer}}}." if prompt.continuation_text.endswith("\\boxed{") else babble()(prompt, seed)

    return script


def spend(query: Any) -> Any:
    while True:
        yield Expand([query.root], max_tokens=40)


def test_the_last_proposal_goes_before_the_majority() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 3)
        yield Propose(Answer("first"))
        yield Propose(Answer("proposed", confidence=0.5, confidence_kind="verifier"))
        yield Propose(Answer(None))
        yield from spend(query)

    ran = run_virtual(run_job(policy, an_engine("\\boxed{1}"), budget=Budget(max_output_tokens=200)))
    assert ran.result.text == "proposed"
    assert ran.result.confidence == 0.5
    assert ran.result.stop_reason is StopReason.BUDGET


@pytest.mark.parametrize("returned", [None, Answer(None)])
def test_an_answer_of_nothing_never_hides_a_proposal_or_a_majority(returned: Any) -> None:
    def proposes(query: Any, ctx: Any) -> Any:
        yield Propose(Answer("mine"))
        return returned

    def votes(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 1)
        return returned

    assert run_virtual(run_job(proposes)).result.text == "mine"
    ran = run_virtual(run_job(votes, an_engine(arithmetic(accuracy=1.0))))
    assert ran.result.text == "6"
    assert ran.result.stop_reason is StopReason.COMPLETED


def test_the_majority_counts_classes_and_shows_its_rivals() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 1, model="large")
        yield Expand([query.root], 2)

    two, one = an_engine("\\boxed{2.0}"), an_engine("\\boxed{1}", name="large")
    ran = run_virtual(run_job(policy, two, large=one))
    assert ran.result.text == "2.0"
    assert ran.result.answer.alternatives == (("1", pytest.approx(1 / 3)),)


def test_texts_of_other_conversations_do_not_vote() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        side = ctx.new_root([Message("user", "What is 100 + 1?")])
        yield Expand([side], 3)
        yield Expand([query.root], 1)

    ran = run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0))))
    assert ran.result.text == "6"
    assert "r1" in ran.result.tree


def test_a_conversation_whose_first_reply_cannot_be_paid_for_is_in_the_tree_of_a_replay_too() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 1)
        yield Expand([ctx.new_root([Message("user", "What is 100 + 1?")])], 1)

    ran = run_virtual(run_job(policy, budget=Budget(max_model_calls=1)))  # which compares it with its replay
    assert ran.result.limited_by == "max_model_calls"
    assert "r1" in ran.result.tree


def test_texts_of_a_conversation_that_answers_the_query_do() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        again = ctx.new_root([*query.root.messages, Message("user", "What is 100 + 1?")], answers_query=True)
        yield Expand([again], 2)
        yield Expand([query.root], 1)

    ran = run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0))))
    assert ran.result.text == "101"
    assert ran.result.answer.alternatives == (("6", pytest.approx(1 / 3)),)


def test_a_reply_in_another_conversation_is_judged_as_a_reply_to_the_query() -> None:
    seen: list[Candidate] = []

    def judge(candidate: Candidate) -> float:
        seen.append(candidate)
        return 0.5

    def policy(query: Any, ctx: Any) -> Any:
        turns = [Message("user", "What is 100 + 1?")]
        for answers_query in (True, False):
            samples = yield Expand([ctx.new_root(turns, answers_query=answers_query)], 1)
            yield Score(samples.nodes, verifier="judge")

    run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0)), verifiers={"judge": judge}))
    reply, aside = seen
    assert reply.prompt.messages[-1] == Message("user", PROBLEM)
    assert reply.prompt.continuation_text == reply.text
    assert aside.prompt.messages == (Message("user", "What is 100 + 1?"),)


def test_without_answers_the_longest_thought_is_concluded() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], max_tokens=10)
        yield Expand([query.root], max_tokens=30)
        yield from spend(query)

    ran = run_virtual(run_job(policy, an_engine(thinks_or_says("42")), budget=Budget(max_output_tokens=100)))
    assert ran.result.text == "42"
    assert ran.result.answer.node is not None
    assert ran.result.answer.node.parent is not None
    assert ran.result.answer.node.parent.output_tokens == 40


def test_without_an_extractable_answer_a_finished_text_is_the_answer() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 2)

    ran = run_virtual(run_job(policy, an_engine("A poem about the sea."), answer="text"))
    assert ran.result.text == "A poem about the sea."


def test_without_anything_there_is_no_answer_and_the_error_says_how_many_texts_there_were() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 2, max_tokens=5)

    ran = run_virtual(run_job(policy, an_engine(babble()), budget=Budget(max_model_calls=2)))
    error = ran.raised
    assert isinstance(error, NoAnswer)
    assert error.fields()["num_texts"] == len([node for node in ran.result.tree if not node.is_root])
    assert ran.result.state is JobState.FAILED


def test_a_failed_policy_keeps_its_best_answer_beside_the_error() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 3)
        raise ValueError("a bug")

    ran = run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0))))
    assert isinstance(ran.raised, PolicyFailed)
    assert "a bug" in str(ran.raised)
    assert ran.result.text == "6"
    assert ran.result.state is JobState.FAILED


def test_an_engine_that_dies_in_the_middle_leaves_the_answer_there_was() -> None:
    engine = an_engine(arithmetic(accuracy=1.0))

    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 2)
        engine.die(100)
        yield Expand([query.root], 2)

    ran = run_virtual(run_job(policy, engine))
    assert isinstance(ran.raised, EngineFailed)
    assert ran.result.text == "6"


def cancel_on(kind: str, number: int = 1) -> Any:
    seen = []

    def watch(ttc: Orchestrator, event: Event) -> None:
        if event.kind == kind:
            seen.append(event)
            if len(seen) == number:
                (job_id,) = ttc.running
                assert ttc.cancel(job_id)

    return watch


@pytest.mark.parametrize(("kind", "number"), [("started", 1), ("begin", 1), ("delta", 1), ("delta", 30), ("done", 2)])
def test_a_cancelled_job_spends_nothing_more_and_keeps_its_best_answer(kind: str, number: int) -> None:
    engine = an_engine(arithmetic(accuracy=1.0), latency=Latency(prefill_s=0.1, token_s=0.01), tokens_per_delta=4)

    def policy(query: Any, ctx: Any) -> Any:
        yield Propose(Answer("so far"))
        for _ in range(3):
            yield Expand([query.root], 2)
        return "too late"

    ran = run_virtual(run_job(policy, engine, on_event=cancel_on(kind, number)))
    assert ran.result.state is JobState.CANCELLED
    assert ran.result.stop_reason is StopReason.CANCELLED
    assert ran.raised is None
    assert ran.result.text == ("so far" if kind in {"delta", "done"} else ran.result.text)
    counted = engine._counters
    assert ran.result.usage.total_tokens == counted.prompt_tokens + counted.output_tokens


def test_a_cancelled_stream_gives_the_majority_of_what_it_had() -> None:
    engine = an_engine(arithmetic(accuracy=1.0), latency=Latency(token_s=0.01))

    def policy(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 50), parallel=2)
        while (yield Next(stream)) is not None:
            pass

    ran = run_virtual(run_job(policy, engine, on_event=cancel_on("sample", 5)))
    assert ran.result.state is JobState.CANCELLED
    assert ran.result.text == "6"


def test_a_verifier_that_hangs_does_not_hold_up_a_cancellation() -> None:
    import asyncio

    async def hangs(_: Any) -> float:
        await asyncio.sleep(1000)
        return 0.0

    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 2)
        yield Score(samples.nodes, "hangs")

    def watch(ttc: Orchestrator, event: Event) -> None:
        if event.kind == "done":
            asyncio.get_running_loop().call_later(0.5, ttc.cancel_all)

    ran = run_virtual(run_job(policy, an_engine(arithmetic(accuracy=1.0)), verifiers={"hangs": hangs}, on_event=watch))
    assert ran.result.state is JobState.CANCELLED
    assert ran.seconds < 1
    assert ran.result.text == "6"


def test_single_streams_its_answer_from_the_first_token() -> None:
    engine = an_engine(arithmetic(accuracy=1.0), tokens_per_delta=1)
    ran = run_virtual(run_job("single", engine))
    kinds = ran.kinds()
    first = kinds.index("answer_delta")
    assert kinds[: first + 1].count("delta") < 10
    streamed = "".join(event.data["text"] for event in ran.events if event.kind == "answer_delta")
    assert streamed == ran.result.tree["1.0"].text == ran.result.committed_text


def test_only_one_sample_of_a_committed_node_is_streamed_as_the_answer() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Commit(query.root)
        samples = yield Expand([query.root], 3)
        return samples[0]

    engine = an_engine(arithmetic(), tokens_per_delta=1, latency=Latency(token_s=0.01))
    ran = run_virtual(run_job(policy, engine))
    streamed = "".join(event.data["text"] for event in ran.events if event.kind == "answer_delta")
    assert streamed == ran.result.tree["1.0"].text


def test_committing_a_finished_text_streams_it_whole() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 2)
        yield Commit(samples[1])
        return samples[1]

    ran = run_virtual(run_job(policy))
    streamed = "".join(event.data["text"] for event in ran.events if event.kind == "answer_delta")
    assert streamed == ran.result.tree["0.1"].text == ran.result.committed_text


def test_a_conclusion_that_states_nothing_is_no_answer_and_the_root_is_tried_next() -> None:
    def script(prompt: Any, seed: int) -> Any:
        if prompt.continuation_text.endswith("\\boxed{"):
            return "7}." if len(prompt.continuation) == 1 else babble()(prompt, seed)
        return babble()(prompt, seed)

    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], max_tokens=20)

    ran = run_virtual(run_job(policy, an_engine(script)))
    assert ran.result.text == "7"
    assert ran.result.answer.node is not None
    assert ran.result.answer.node.parent is ran.result.tree.root


def test_conclude_in_a_policy_is_greedy_and_reads_the_answer_however_it_ends() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (thought,) = yield Expand([query.root], max_tokens=20)
        concluded = yield Conclude(thought)
        return concluded

    engine = an_engine(thinks_or_says("12"))
    ran = run_virtual(run_job(policy, engine))
    assert ran.result.text == "12"
    assert engine.log[1].sampling.is_greedy


def test_the_error_a_policy_lets_through_decides_the_stop_reason() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Propose(Answer("x"))
        raise BudgetExhausted(limit="mine", remaining=0, requested=1)

    ran = run_virtual(run_job(policy))
    assert (ran.result.text, ran.result.stop_reason) == ("x", StopReason.BUDGET)


async def test_of_open_replies_the_one_that_is_most_like_the_others_is_the_answer() -> None:
    replies = ["a song of rain", "spring rain on the old pond", "rain on the pond in spring", "the old pond and a frog"]
    ran = await run_job("self_consistency", an_engine(replies), params={"n": 24}, answer="open")
    assert ran.result.text == "spring rain on the old pond"
    assert ran.result.confidence is None


def test_the_first_of_equals_is_the_most_alike() -> None:
    nodes = [Node(f"1.{place}", text=text) for place, text in enumerate(["a b", "b a", "c"])]
    assert most_alike(nodes) is nodes[0]
    assert most_alike(nodes[2:]) is nodes[2]
