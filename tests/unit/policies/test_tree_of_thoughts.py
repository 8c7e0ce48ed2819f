"""Tree of Thoughts: what is proposed, who is kept, how answers that disagree are decided on."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from orchestrator.actions import Conclude, Expand, Next, Propose, Release, Score, Start
from orchestrator.errors import BudgetExhausted, ContextOverflow
from orchestrator.policies.tree_of_thoughts import tree_of_thoughts
from orchestrator.sampling import Sampling
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node

from .worlds import Said, end, kept, step

AB: Said = {
    "": [step("a"), step("b")],
    "a": [step("c"), step("d")],
    "b": [step("e"), step("f")],
}


KEPT = "not among the 1 that the model thinks best"


class Model:
    """Says what a world says, votes for attempts by their worth, and lists what it is told to."""

    def __init__(
        self, said: Said, worth: Mapping[str, float], *, votes: Callable[[str], str] | None = None, lists: str = ""
    ) -> None:
        self._said = said
        self._worth = worth
        self._votes = votes or self._vote
        self._lists = lists
        self._streams: list[list[Sampled]] = []

    def steps(self, action: Expand) -> list[Sampled]:
        said: list[Sampled] = []
        for node, count in zip(action.nodes, action.counts(), strict=True):
            question = node.root.messages[0].content
            if question.startswith("Below"):
                reply = self._lists if "Propose" in question else self._votes(question)
                said += [Sampled(text=reply)] * count
            else:
                options: Sequence[Sampled] = self._said[node.trajectory + action.forced]
                said += [options[index % len(options)] for index in range(count)]
        return said

    def _vote(self, question: str) -> str:
        if "Verdict" in question:
            attempt = question.split("[Attempt]\n")[1].splitlines()[0]
            worth = self._worth[attempt]
            return f"Verdict: {'sure' if worth > 0.7 else 'likely' if worth > 0.3 else 'impossible'}"
        attempts = re.findall(r"\[Attempt \d+\]\n(.*)\n", question)
        return f"Best attempt: {1 + max(range(len(attempts)), key=lambda index: self._worth[attempts[index]])}"

    def play(self, driver: PolicyDriver, *, num_turns: int = 1000) -> PolicyDriver:
        for _ in range(num_turns):
            if driver.is_finished:
                break
            match driver.action:
                case Expand() as action:
                    driver.send(driver.samples(*self.steps(action)))
                case Start(expand):
                    self._streams.append(self.steps(expand))
                    driver.send(driver.stream())
                case Next(stream):
                    driver.send(driver.sample(self._streams[stream.id].pop(0)) if self._streams[stream.id] else None)
                case Conclude():
                    driver.send(driver.sample("9"))
                case _:
                    driver.send(None)
        return driver


def a_search(cue: str = "", **params: Any) -> PolicyDriver:
    return PolicyDriver(tree_of_thoughts, params={"beam": 1, "proposals": 2, **params}, cue=cue)


def continued(driver: PolicyDriver) -> list[list[str]]:
    """The texts that were continued, action by action."""
    expands = [action for action in driver.actions if isinstance(action, Expand)]
    levels = [[node.trajectory for node in action.nodes if node.root is driver.query.root] for action in expands]
    return [level for level in levels if level]


def asked(driver: PolicyDriver) -> list[Node]:
    """The conversations on the side, in order."""
    expands = [action for action in driver.actions if isinstance(action, Expand)]
    return [node for action in expands for node in action.nodes if node.root is not driver.query.root]


class TestSearch:
    def test_the_best_of_each_level_by_votes_is_gone_on_from(self):
        said = {**AB, "bf": [end("!", "1"), end("?", "1")]}
        worth = {"a": 0.1, "b": 0.9, "be": 0.3, "bf": 0.8, "bf!": 0.5, "bf?": 0.4}
        driver = Model(said, worth).play(a_search())
        assert continued(driver) == [[""], ["b"], ["bf"]]
        assert (driver.answer.text, driver.answer.confidence) == ("1", 1.0)
        assert kept(driver) == [({"b"}, KEPT), ({"bf"}, KEPT)]

    def test_verdicts_may_take_the_place_of_votes(self):
        said = {**AB, "be": [end("!", "1")], "bf": [end("?", "2")]}
        worth = {"a": 0.1, "b": 0.9, "be": 0.5, "bf": 0.9, "bf?": 0.5}
        driver = Model(said, worth).play(a_search(judging="value", num_votes=2))
        assert continued(driver) == [[""], ["b"], ["bf"]]
        assert (driver.answer.text, driver.answer.confidence) == ("2", 0.5)
        assert [action.counts() for action in driver.actions if isinstance(action, Expand)][1] == (2, 2)

    def test_no_verifier_is_asked(self):
        driver = Model({"": [end("x", "1"), end("y", "2")]}, {"x": 0.5, "y": 0.6}).play(a_search())
        assert not [action for action in driver.actions if isinstance(action, Score)]
        assert "verifier" not in tree_of_thoughts.params_type.model_fields

    def test_finished_ones_leave_their_place_in_the_beam(self):
        said = {"": [end("x", "1"), step("a")], "a": [end("y", "1"), end("z", "1")]}
        worth = {"x": 0.9, "a": 0.5, "ay": 0.5, "az": 0.5}
        assert continued(Model(said, worth).play(a_search(beam=1))) == [[""]]
        assert continued(Model(said, worth).play(a_search(beam=2))) == [[""], ["a"]]

    def test_it_ends_at_the_depth_limit(self):
        said = {"": [step("a"), step("b")], "a": [step("c"), step("d")]}
        driver = Model(said, {"a": 0.9, "b": 0.1, "ac": 0.9, "ad": 0.1}).play(a_search(max_depth=2, cue="So: "))
        assert continued(driver) == [[""], ["a"]]
        assert driver.answer.text == "9"

    def test_another_model_may_judge(self):
        search = a_search(judge="large", judge_temperature=0.5, max_judge_tokens=99)
        driver = Model(AB, {"a": 0.1, "b": 0.9}).play(search, num_turns=3)
        first, vote, second = (action for action in driver.actions if isinstance(action, Expand))
        assert (first.model, vote.model, second.model) == ("small", "large", "small")
        assert (vote.sampling, vote.max_tokens) == (Sampling(temperature=0.5), 99)


class TestJudging:
    def test_without_votes_the_first_is_as_good_as_any(self):
        said = {**AB, "a": [end("!", "1"), end("?", "2")]}
        driver = Model(said, {}, votes=lambda _: "well then maybe").play(a_search())
        assert continued(driver) == [[""], ["a"]]
        assert (driver.answer.text, driver.answer.confidence) == ("1", None)

    def test_attempts_too_long_to_compare_are_no_failure(self):
        driver = a_search()
        driver.send(driver.samples(step("a"), step("b")))
        driver.throw(ContextOverflow(model="small", prompt_tokens=9, context_length=8))
        assert isinstance(driver.action, Release)

    def test_answers_that_disagree_are_voted_on_once_more(self):
        said = {"": [end("x", "1"), step("a")], "a": [end("y", "2"), end("z", "2")]}
        worth = {"x": 0.6, "a": 0.5, "ay": 0.9, "az": 0.1}
        driver = Model(said, worth).play(a_search(beam=2, num_votes=1))
        assert asked(driver)[-1].messages[0].content.count("[Attempt ") == 2
        assert (driver.answer.text, driver.answer.alternatives) == ("2", (("1", 0.0),))

    def test_answers_that_agree_are_not(self):
        said = {"": [end("x", "1"), end("y", "1")]}
        driver = Model(said, {"x": 0.6, "y": 0.5}).play(a_search(num_votes=1))
        assert len(asked(driver)) == 1

    def test_a_majority_needs_no_vote_of_the_model(self):
        said = {"": [end("x", "1"), end("y", "2"), end("z", "2")]}
        driver = Model(said, {"x": 0.6, "y": 0.5, "z": 0.5}).play(
            a_search(num_votes=1, proposals=3, selection="majority")
        )
        assert (len(asked(driver)), driver.answer.text) == (1, "2")


class TestLists:
    def test_listed_steps_are_carried_out_side_by_side(self):
        driver = a_search(proposing="list")
        said = {"Add.\n": [step(" 6 + 7")], "Multiply.\n": [end(" 42", "42")]}
        worth = {"Add.\n 6 + 7": 0.1, "Multiply.\n 42": 0.9, "Multiply.": 0.9, "Add.": 0.1}
        Model(said, worth, lists="1. Add.\n2. Multiply.").play(driver)
        starts = [action.expand for action in driver.actions if isinstance(action, Start)]
        assert [start.forced for start in starts] == ["Add.\n", "Multiply.\n"]
        assert driver.answer.text == "42"
        assert driver.answer.node is not None
        assert driver.answer.node.trajectory == "Multiply.\n 42"

    def test_without_a_list_steps_are_sampled(self):
        said = {"": [end("x", "1"), end("y", "1")]}
        driver = Model(said, {"x": 0.6, "y": 0.5}, lists="I would add.").play(a_search(proposing="list"))
        assert [action.counts() for action in driver.actions if isinstance(action, Expand)][1] == (2,)
        assert driver.answer.text == "1"

    def test_one_listed_step_is_one_expansion(self):
        said = {"Add.\n": [end(" 13", "13")]}
        driver = Model(said, {}, lists="1. Add.").play(a_search(proposing="list"))
        assert driver.answer.text == "13"


class TestBudget:
    def test_when_the_judge_cannot_be_paid_an_answer_found_stands(self):
        driver = a_search()
        driver.send(driver.samples(end("x", "1"), step("a")))
        driver.throw()
        assert isinstance(driver.action, Propose)
        assert driver.action.answer.text == "1"
        with pytest.raises(BudgetExhausted):
            driver.send(None)

    def test_when_the_list_cannot_be_paid_the_best_step_so_far_is_concluded(self):
        driver = a_search(proposing="list", cue="So: ")
        said = {"Add.\n": [step(" 6 + 7")], "Multiply.\n": [step(" 6 * 7")]}
        model = Model(said, {"Add.": 0.1, "Multiply.": 0.9}, lists="1. Add.\n2. Multiply.")
        while not isinstance(driver.action, Release):
            model.play(driver, num_turns=1)
        driver.send(None)
        driver.throw()
        assert isinstance(driver.action, Conclude)
        assert driver.action.node.trajectory == "Multiply.\n 6 * 7"
