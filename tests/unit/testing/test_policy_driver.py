"""The driver: answers actions, checks them, and says what is wrong."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from orchestrator.actions import (
    Answer,
    AskHuman,
    Cancel,
    Compute,
    Conclude,
    Embed,
    Expand,
    Next,
    Propose,
    Samples,
    Score,
    Start,
    Stream,
)
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.testing.policy_contract import described
from orchestrator.tree import Node


def two_samples(query, ctx):
    """Draws two samples."""
    samples = yield Expand([query.root], 2, forced="So", model="large")
    return samples[-1] if samples else None


def streaming(query, ctx):
    """Draws from a stream until there is no more."""
    stream = yield Start(Expand([query.root], 2))
    last = None
    while (sample := (yield Next(stream))) is not None:
        last = sample
    return last


def test_it_starts_with_the_first_action_pending():
    driver = PolicyDriver(two_samples, problem="How many?")
    assert driver.action == driver.actions[0] == Expand([driver.query.root], 2, forced="So", model="large")
    assert driver.query.root.messages[0].content == "How many?"
    assert not driver.is_finished


def test_samples_are_children_of_what_was_expanded():
    driver = PolicyDriver(two_samples)
    samples = driver.samples("12", Sampled(answer="13", text=" 13!", finish=FinishReason.LENGTH, logprob=-2.0))
    assert [node.answer for node in samples] == ["12", "13"]
    assert [node.text for node in samples] == ["So So it is 12.", "So 13!"]
    assert {node.parent for node in samples} == {driver.query.root}
    assert (samples[1].forced, samples[1].model, samples[1].logprob) == ("So", "large", -2.0)
    assert samples[1].is_cut
    assert samples[0].id != samples[1].id


def test_samples_of_several_nodes_come_node_by_node():
    def search(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        first = yield Expand([query.root], 2)
        yield Expand(first.nodes, [1, 2])

    driver = PolicyDriver(search)
    first = driver.samples("a", "b")
    driver.send(first)
    second = driver.samples("c", "d", "e")
    assert [node.parent for node in second] == [first[0], first[1], first[1]]


def test_fewer_samples_are_a_partial_outcome():
    driver = PolicyDriver(two_samples)
    assert driver.samples("12").is_partial
    assert not driver.samples("12", "13").is_partial


def test_more_samples_than_asked_for_are_refused():
    driver = PolicyDriver(two_samples)
    with pytest.raises(AssertionError, match="3 samples for an Expand that asks for 2"):
        driver.samples("1", "2", "3")


def test_what_a_policy_returns_becomes_an_answer():
    driver = PolicyDriver(two_samples)
    driver.send(driver.samples("12", "13"))
    assert driver.is_finished
    assert driver.answer.text == "13"
    assert driver.answer.node is not None


@pytest.mark.parametrize("value", ["12", None, Answer("12")])
def test_text_and_nothing_become_answers_too(value: Any):
    def returning(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield Propose(Answer("first"))
        return value

    driver = PolicyDriver(returning)
    driver.send()
    assert driver.answer == (value if isinstance(value, Answer) else Answer(value))


def test_a_return_value_that_is_no_answer_is_refused():
    def returning(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield Propose(Answer("first"))
        return 12

    with pytest.raises(AssertionError, match="returns 12; it must be an Answer"):
        PolicyDriver(returning).run()


def test_only_the_right_outcome_is_taken():
    driver = PolicyDriver(two_samples)
    with pytest.raises(AssertionError, match="is no outcome of Expand"):
        driver.send("12")


def test_the_answer_is_not_there_before_the_policy_returns():
    with pytest.raises(AssertionError, match="has not returned; it waits for Expand"):
        _ = PolicyDriver(two_samples).answer


def test_no_action_is_pending_after_the_policy_returned():
    driver = PolicyDriver(two_samples)
    driver.run(["1", "2"])
    with pytest.raises(AssertionError, match="no action is pending"):
        _ = driver.action


def test_what_is_no_action_is_refused():
    def wrong(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield "sample please"

    with pytest.raises(AssertionError, match="yields 'sample please', which is no action"):
        PolicyDriver(wrong)


@pytest.mark.parametrize("num_samples", [0, [], [-1]])
def test_an_expansion_of_nothing_is_refused(num_samples: Any):
    def wrong(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield Expand([query.root] if num_samples != [] else [], num_samples)

    with pytest.raises(AssertionError, match="asks for no sample"):
        PolicyDriver(wrong)


def test_a_stream_delivers_one_by_one_and_ends_with_nothing():
    driver = PolicyDriver(streaming)
    stream = driver.stream()
    driver.send(stream)
    driver.send(driver.sample("1"))
    assert driver.is_open(stream)
    driver.send(driver.sample("2"))
    assert not driver.is_open(stream)
    with pytest.raises(AssertionError, match="used up"):
        driver.sample("3")
    driver.send(None)
    assert driver.answer.text == "2"
    assert (driver.num_requested, driver.num_delivered) == (2, 2)


def test_a_stream_that_was_not_started_is_refused():
    def wrong(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield Next(Stream(7))

    with pytest.raises(AssertionError, match="which it did not start"):
        PolicyDriver(wrong)


def test_a_stream_that_is_left_open_is_refused():
    def wrong(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        stream = yield Start(Expand([query.root], 3))
        yield Next(stream)

    with pytest.raises(AssertionError, match=r"left streams \[0\] open; yield Cancel first"):
        PolicyDriver(wrong).run(["1", "2", "3"])


def test_a_cancelled_stream_is_not_left_open():
    def right(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        stream = yield Start(Expand([query.root], 3))
        sample = yield Next(stream)
        yield Cancel(stream)
        return sample

    assert PolicyDriver(right).run(["1"]).text == "1"


def test_an_error_is_raised_at_the_yield():
    def careful(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        try:
            yield Expand([query.root])
        except BudgetExhausted as error:
            return error.limit

    driver = PolicyDriver(careful)
    driver.throw(BudgetExhausted(limit="max_usd", remaining=0, requested=1))
    assert driver.answer.text == "max_usd"


def test_an_error_that_is_not_caught_comes_back_and_ends_the_policy():
    driver = PolicyDriver(two_samples)
    with pytest.raises(BudgetExhausted):
        driver.throw()
    assert driver.is_finished
    with pytest.raises(AssertionError, match="raised, so it returned no answer"):
        _ = driver.answer


def test_a_policy_that_goes_on_after_it_was_closed_is_refused():
    def stubborn(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        try:
            yield Expand([query.root])
        finally:
            yield Propose(Answer("wait"))

    with pytest.raises(AssertionError, match="yields after it was closed"):
        PolicyDriver(stubborn).close()


def test_running_out_of_replies_is_running_out_of_budget():
    assert PolicyDriver(two_samples).run(["1"]).text == "1"
    assert PolicyDriver(two_samples).run([]) == Answer(None)
    assert PolicyDriver(streaming).run(["1"]).text == "1"


def test_a_run_that_fails_on_the_budget_gives_the_last_proposal():
    def proposing(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield Propose(Answer("first"))
        yield Expand([query.root])

    assert PolicyDriver(proposing).run([]) == Answer("first")


def test_run_takes_functions_in_place_of_lists():
    def scoring(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        samples: Samples = yield Expand([query.root], 3)
        scores = yield Score(samples.nodes)
        concluded = yield Conclude(max(zip(samples, scores, strict=True), key=lambda pair: pair[1])[0])
        return (yield Compute(str.upper, (concluded.answer,)))

    def reply(action: Any) -> str:
        return "concluded" if isinstance(action, Conclude) else "sampled"

    driver = PolicyDriver(scoring)
    assert driver.run(reply, scores=lambda node: 0.5).text == "CONCLUDED"
    assert [type(action) for action in driver.actions] == [Expand, Score, Conclude, Compute]


def test_run_embeds_texts_so_that_those_that_share_words_are_near():
    def embedding(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        texts = ["add seven and two", "and now add seven", "divide"]
        nodes = [Node(str(number), query.root, text=text) for number, text in enumerate(texts)]
        vectors = yield Embed(nodes)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
        return "near" if vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2] else "far"

    assert PolicyDriver(embedding).run().text == "near"


def test_an_embedding_has_a_row_for_each_node():
    def embedding(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield Embed([query.root])

    driver = PolicyDriver(embedding)
    with pytest.raises(AssertionError, match="no outcome"):
        driver.send(np.zeros((2, 3), np.float32))


def test_run_says_which_actions_it_cannot_answer():
    def asking(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        yield AskHuman("Well?")

    with pytest.raises(AssertionError, match="drive it by hand"):
        PolicyDriver(asking).run()


def test_run_ends_a_policy_that_never_does():
    def endless(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
        while True:
            yield Propose(Answer("again"))

    with pytest.raises(AssertionError, match="has not ended after 50"):
        PolicyDriver(endless).run(most_actions=50)


def test_descriptions_of_actions_name_nodes():
    driver = PolicyDriver(two_samples)
    assert described(driver.action)["nodes"] == ["node root"]
    assert described(driver.action)["type"] == "Expand"
    assert described(Embed([driver.query.root])) == {"type": "Embed", "nodes": ["node root"], "model": "embedder"}
