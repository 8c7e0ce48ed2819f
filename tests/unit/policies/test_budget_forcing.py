"""Budget forcing: when a thought may end, and what is put in place of its end."""

from typing import ClassVar

import pytest

from orchestrator.actions import Action, Conclude, Expand
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted
from orchestrator.policies import budget_forcing
from orchestrator.testing import PolicyDriver, Sampled


def thought(text: str, answer: str | None = None, *, tokens: int = 10) -> Sampled:
    return Sampled(text=text, answer=answer, output_tokens=tokens)


def closed(text: str, answer: str | None = None) -> Sampled:
    return Sampled(text=f"{text}</think>", answer=answer, finish=FinishReason.STOP)


def cut(text: str, answer: str | None = None, *, tokens: int = 10) -> Sampled:
    return Sampled(text=text, answer=answer, finish=FinishReason.LENGTH, output_tokens=tokens)


def expansions(actions: list[Action]) -> list[Expand]:
    return [action for action in actions if isinstance(action, Expand)]


class TestWithoutADelimiter:
    def test_it_is_told_to_wait_each_time_it_stops_and_the_last_answer_counts(self):
        driver = PolicyDriver(budget_forcing, params={"max_thinking_tokens": 100})
        answer = driver.run([thought("a", "1"), thought("b", "2"), thought("c", "3")])
        assert answer.text == "3"
        assert answer.node is not None
        assert answer.node.trajectory == "a\nWaitb\nWaitc"
        assert [proposal.text for proposal in driver.proposals] == ["1", "2", "3"]

    def test_each_round_gets_the_tokens_that_are_left(self):
        driver = PolicyDriver(budget_forcing, params={"max_thinking_tokens": 100})
        driver.run([thought("a", "1", tokens=30), thought("b", "2", tokens=50), thought("c", "3")])
        assert [action.max_tokens for action in expansions(driver.actions)] == [100, 70, 20]

    def test_it_concludes_a_thought_that_used_up_its_tokens(self):
        driver = PolicyDriver(budget_forcing, params={"max_thinking_tokens": 40})
        answer = driver.run([thought("a", "1"), cut("b", tokens=30), "2"])
        assert isinstance(driver.actions[-1], Conclude)
        assert answer.text == "2"

    def test_it_keeps_an_earlier_answer_when_the_conclusion_fails(self):
        driver = PolicyDriver(budget_forcing, params={"max_thinking_tokens": 40})
        assert driver.run([thought("a", "1"), cut("b", tokens=30)]).text == "1"
        driver = PolicyDriver(budget_forcing, params={"max_thinking_tokens": 40})
        assert driver.run([thought("a", "1"), cut("b", tokens=30), None]).text == "1"

    def test_tokens_that_are_just_used_up_end_the_thought(self):
        driver = PolicyDriver(budget_forcing, params={"max_thinking_tokens": 20})
        assert driver.run([thought("a", "1"), thought("b", "2")]).text == "2"

    def test_it_ignores_no_end_when_told_so(self):
        driver = PolicyDriver(budget_forcing, params={"num_ignores": 0})
        assert driver.run([thought("a", "1")]).text == "1"
        assert driver.num_delivered == 1

    def test_the_text_in_place_of_the_end_can_be_chosen(self):
        driver = PolicyDriver(budget_forcing, params={"num_ignores": 1, "wait": " Hmm"})
        driver.run([thought("a", "1"), thought("b", "2")])
        assert [action.forced for action in expansions(driver.actions)] == ["", " Hmm"]

    def test_a_tool_call_is_not_talked_over(self):
        driver = PolicyDriver(budget_forcing, cue="")
        driver.run([Sampled(text="call", finish=FinishReason.TOOL_CALL)])
        assert len(expansions(driver.actions)) == 1

    def test_an_exhausted_budget_leaves_the_last_proposal(self):
        driver = PolicyDriver(budget_forcing)
        driver.send(driver.samples(thought("a", "1")))
        driver.send()
        with pytest.raises(BudgetExhausted):
            driver.throw()
        assert driver.proposals[-1].text == "1"


class TestWithADelimiter:
    PARAMS: ClassVar = {"end_of_thinking": "</think>", "num_ignores": 1, "max_thinking_tokens": 100, "max_tokens": 50}

    def test_the_ignored_delimiter_is_dropped_and_the_last_one_stays(self):
        driver = PolicyDriver(budget_forcing, params=self.PARAMS)
        answer = driver.run([closed("a"), closed("b"), thought("It is 2.", "2")])
        assert answer.text == "2"
        assert answer.node is not None
        assert answer.node.trajectory == "a\nWaitb</think>It is 2."

    def test_several_ignored_delimiters_are_all_dropped(self):
        driver = PolicyDriver(budget_forcing, params={**self.PARAMS, "num_ignores": 2})
        answer = driver.run([closed("a"), closed("b"), closed("c"), thought("2", "2")])
        assert answer.node is not None
        assert answer.node.trajectory == "a\nWaitb\nWaitc</think>2"

    def test_thought_and_reply_have_limits_of_their_own(self):
        driver = PolicyDriver(budget_forcing, params=self.PARAMS)
        driver.run([closed("a"), closed("b"), thought("2", "2")])
        assert [action.max_tokens for action in expansions(driver.actions)] == [100, 90, 50]
        assert [action.stop for action in expansions(driver.actions)] == [("</think>",), ("</think>",), ()]

    def test_a_thought_without_an_end_is_closed_for_the_reply(self):
        driver = PolicyDriver(budget_forcing, params=self.PARAMS)
        answer = driver.run([cut("a", tokens=100), thought("It is 2.", "2")])
        assert answer.node is not None
        assert answer.node.trajectory == "a</think>It is 2."

    def test_a_reply_that_cannot_be_paid_for_is_concluded_from_the_thought(self):
        driver = PolicyDriver(budget_forcing, params=self.PARAMS)
        driver.send(driver.samples(cut("a", tokens=100)))
        driver.throw()
        assert isinstance(driver.action, Conclude)
        driver.send(driver.sample("2"))
        assert driver.answer.text == "2"

    def test_a_reply_without_an_answer_is_concluded(self):
        driver = PolicyDriver(budget_forcing, params=self.PARAMS)
        assert driver.run([closed("a"), closed("b"), cut("Well"), "2"]).text == "2"

    def test_a_model_that_never_closes_its_thought_is_told_to_wait_where_it_stopped(self):
        driver = PolicyDriver(budget_forcing, params=self.PARAMS)
        answer = driver.run([thought("a", "1"), thought("b", "2")])
        assert answer.node is not None
        assert answer.node.trajectory == "a\nWaitb"
