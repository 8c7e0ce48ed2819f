"""A*-decoding: which state is expanded next, when it stops, what it lets go."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.actions import Answer, Conclude, Expand, Propose, Snapshot
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.a_star import AStarParams, EdgeCost, Frontier, State, a_star
from orchestrator.policies.search.partial import Partial
from orchestrator.sampling import GREEDY
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node

from .worlds import Said, end, expanded, explore, kept, scored, step

REWARDS = st.floats(0, 1)


def a_search(**params: Any) -> PolicyDriver:
    return PolicyDriver(a_star, params={"expansion": 2, **params}, cue="")


# p rises and falls, q only falls: f of `pry` and of `q` compare differently under the two costs.
BRANCHING: Said = {
    "": [step("p"), step("q")],
    "p": [step("r"), step("s")],
    "pr": [step("y"), step("z")],
    "pry": [end("!", "1"), step("?")],
    "q": [end("!", "2"), step("?")],
}
REWARD = {
    "p": 0.6, "q": 0.59, "pr": 0.9, "ps": 0.1, "pry": 0.85, "prz": 0.1, "pry!": 0.85, "pry?": 0.1, "q!": 0.59, "q?": 0.1
}  # fmt: skip


class TestOrder:
    def test_by_drop_a_path_pays_for_what_it_lacks_and_again_for_what_it_lost(self):
        driver = explore(a_search(edge_cost="drop"), BRANCHING, REWARD)
        assert expanded(driver) == ["", "p", "pr", "pry"]  # f: 0, 0.8, 0.5, 0.6, and q would be 0.82
        assert driver.answer.text == "1"

    def test_consistent_costs_keep_what_was_lost_on_the_way(self):
        driver = explore(a_search(edge_cost="consistent"), BRANCHING, REWARD)
        assert expanded(driver) == ["", "p", "pr", "q"]  # f: 0, 0.4, 0.4, 0.41, and pry would be 0.45
        assert driver.answer.text == "2"

    def test_a_missing_reward_is_that_of_the_step_before(self):
        worth = REWARD | {"pr": None, "pry": None}
        driver = explore(a_search(max_expansions=4), BRANCHING, worth)
        assert expanded(driver) == ["", "p", "pr", "pry"]  # of equal f, the deepest

    def test_of_equal_costs_the_deepest_and_then_the_oldest_goes_first(self):
        def opened(f: float, depth: int, age: int) -> State:
            return State(f, -depth, age, 0.0, 0.0, Partial(Node("n")))

        states = [opened(*key) for key in itertools.product((0.2, 0.1), (1, 2), (0, 1))]
        assert [(state.f, -state.minus_depth, state.age) for state in sorted(states)] == [
            (0.1, 2, 0), (0.1, 2, 1), (0.1, 1, 0), (0.1, 1, 1), (0.2, 2, 0), (0.2, 2, 1), (0.2, 1, 0), (0.2, 1, 1)
        ]  # fmt: skip

    @pytest.mark.parametrize("how", ["drop", "consistent"])
    @given(rewards=st.lists(REWARDS, min_size=1, max_size=8))
    def test_f_is_made_of_what_was_lost_and_under_drop_also_of_what_is_lacking(
        self, how: EdgeCost, rewards: list[float]
    ):
        losses = math.fsum(max(0.0, before - after) for before, after in itertools.pairwise([1.0, *rewards]))
        state = _path(how, rewards)[-1]
        assert state.f == pytest.approx(losses + (1 - rewards[-1] if how == "drop" else 0.0))

    @given(rewards=st.lists(REWARDS, min_size=1, max_size=8))
    def test_consistent_costs_never_fall_along_a_path(self, rewards: list[float]):
        path = _path("consistent", rewards)
        assert all(after.f >= before.f - 1e-9 for before, after in itertools.pairwise(path))

    def test_drops_are_not_consistent(self):
        low, high = _path("drop", [0.2, 0.9])[1:]
        assert high.f < low.f

    @settings(max_examples=40, deadline=None)
    @given(rewards=st.lists(REWARDS, min_size=14, max_size=14))
    def test_the_first_answer_under_consistent_costs_has_lost_the_least_of_all(self, rewards: list[float]):
        texts = ["".join(path) for depth in (1, 2, 3) for path in itertools.product("ab", repeat=depth)]
        worth = dict(zip(texts, rewards, strict=True))

        def losses(text: str) -> float:
            path = [1.0, *(worth[text[:depth]] for depth in range(1, 4))]
            return math.fsum(max(0.0, before - after) for before, after in itertools.pairwise(path))

        def after(text: str) -> list[Sampled]:
            return [end(letter, text + letter) if len(text) == 2 else step(letter) for letter in "ab"]

        driver = explore(a_search(edge_cost="consistent"), after, worth)
        assert driver.answer.text is not None
        assert losses(driver.answer.text) == pytest.approx(min(map(losses, texts[-8:])))


def _path(how: EdgeCost, rewards: list[float]) -> list[State]:
    """The states along one path, the start first."""
    frontier = Frontier(Partial(Node("root")), AStarParams(edge_cost=how))
    states = [frontier.states[0]]
    for depth in range(1, len(rewards) + 1):
        states.append(frontier.add(states[-1], Partial(Node(f"{depth}"), tuple(rewards[:depth]))))
    return states


class TestEnd:
    def test_it_ends_when_an_answer_is_the_best_open_state_and_not_when_one_is_found(self):
        said = {"": [end("x", "1"), step("a")], "a": [end("y", "2"), step("b")]}
        driver = explore(a_search(), said, {"x": 0.5, "a": 0.9, "ay": 0.9, "ab": 0.1})
        assert expanded(driver) == ["", "a"]
        assert (driver.answer.text, driver.answer.confidence) == ("2", 0.9)
        assert [proposal.text for proposal in driver.proposals] == ["1", "2"]

    def test_it_may_go_on_to_more_answers_and_choose_among_them(self):
        said = {"": [end("x", "1"), step("a")], "a": [end("y", "2"), step("b")], "ab": [end("z", "1"), step("c")]}
        worth = {"x": 0.5, "a": 0.9, "ay": 0.8, "ab": 0.7, "abz": 0.7, "abc": 0.1}
        one = explore(a_search(), said, worth)
        three = explore(a_search(num_answers=3, selection="weighted_majority"), said, worth)
        assert (one.answer.text, expanded(one)) == ("2", ["", "a"])
        assert (three.answer.text, expanded(three)) == ("1", ["", "a", "ab"])  # 0.5 + 0.7 against 0.8

    def test_when_no_more_may_be_expanded_the_best_finished_one_is_the_answer(self):
        said = {"": [end("x", "1"), step("a")], "a": [end("y", "2"), step("b")]}
        worth = {"x": 0.3, "a": 0.9, "ay": 0.2, "ab": 0.8}
        driver = explore(a_search(max_expansions=2), said, worth)
        assert (driver.answer.text, driver.answer.confidence) == ("1", 0.3)

    def test_with_none_finished_the_best_open_state_is_written_to_its_end(self):
        said = {"": [step("a"), step("b")], "b": [end("and so on: 7", "7"), step("c")]}
        driver = explore(a_search(max_expansions=1, max_tokens=50), said, {"a": 0.3, "b": 0.6, "band so on: 7": 0.4})
        rest = [action for action in driver.actions if isinstance(action, Expand)][-1]
        assert [node.trajectory for node in rest.nodes] == ["b"]
        assert (rest.counts(), rest.sampling, rest.stop, rest.max_tokens) == ((1,), GREEDY, (), 40)
        assert (driver.answer.text, driver.answer.confidence) == ("7", 0.4)

    def test_if_its_end_cannot_be_paid_for_it_is_concluded(self):
        driver = PolicyDriver(a_star, params={"expansion": 2, "max_expansions": 1}, cue="So: ")
        explore(driver, {"": [step("a"), step("b")]}, {"a": 0.3, "b": 0.6}, num_turns=2)
        driver.throw()
        assert isinstance(driver.action, Conclude)
        assert driver.action.node.trajectory == "b"

    def test_if_its_end_cannot_be_scored_it_counts_all_the_same(self):
        said = {"": [step("a"), step("b")], "b": [end("and so on: 7", "7")]}
        driver = explore(a_search(max_expansions=1), said, {"a": 0.3, "b": 0.6}, num_turns=3)
        driver.throw()
        driver.send(None)
        assert (driver.answer.text, driver.answer.confidence) == ("7", 0.6)

    def test_a_finished_text_without_an_answer_is_no_goal(self):
        said = {"": [end("lost", None), step("a")], "a": [end("x", "1"), step("b")]}
        driver = explore(a_search(), said, {"lost": 1.0, "a": 0.5, "ax": 0.5, "ab": 0.4})
        assert driver.answer.text == "1"

    def test_without_any_answer_the_finished_text_is_concluded(self):
        driver = PolicyDriver(a_star, params={"expansion": 2}, cue="So: ")
        explore(driver, {"": [end("lost", None), end("found", None)]}, {"lost": 0.2, "found": 0.4}, concluded="3")
        assert [action.node.text for action in driver.actions if isinstance(action, Conclude)] == ["found"]
        assert driver.answer.text == "3"

    def test_trajectories_of_the_most_steps_are_not_expanded(self):
        driver = explore(a_search(max_depth=2), lambda _: [step("a"), step("b")], lambda _: 0.5, concluded=None)
        assert max(map(len, expanded(driver))) == 1
        assert driver.answer.text is None


class TestCosts:
    def test_equal_continuations_are_scored_and_expanded_once(self):
        said = {"": [step("a"), step("a"), step("b")], "a": [end("x", "1")], "b": [end("x", "1")]}
        driver = explore(a_search(expansion=3), said, {"a": 0.9, "b": 0.5, "ax": 0.9})
        assert scored(driver) == ["a", "b", "ax"]

    def test_equal_texts_of_which_one_ends_are_two_steps(self):
        driver = explore(a_search(), {"": [step("a"), end("a", "1")]}, {"a": 0.9}, num_turns=2)
        assert scored(driver) == ["a", "a"]

    def test_states_beyond_the_cap_are_let_go_with_the_reason(self):
        said = {"": [step("a"), step("b"), step("c"), step("d")]}
        driver = explore(
            a_search(expansion=4, max_frontier=2), said, {"a": 0.1, "b": 0.9, "c": 0.8, "d": 0.2}, num_turns=3
        )
        assert kept(driver) == [({"b", "c"}, "2 open states have a lower cost")]

    def test_what_grew_too_long_is_let_go(self):
        said = {"": [step("a"), step("b", tokens=60)], "a": [end("x", "1")]}
        driver = explore(a_search(max_tokens=50), said, {"a": 0.9, "b": 0.9, "ax": 0.9})
        assert kept(driver) == [({"a"}, "it grew too long")]

    def test_nothing_is_let_go_while_all_is_open(self):
        assert kept(explore(a_search(), BRANCHING, REWARD)) == []


class TestBudget:
    def test_when_it_ends_the_best_answer_so_far_stands(self):
        said = {"": [end("x", "1"), step("a")]}
        driver = explore(a_search(), said, {"x": 0.5, "a": 0.9}, num_turns=3)
        assert driver.proposals == [Answer("1", driver.proposals[0].node, 0.5, "verifier")]
        with pytest.raises(BudgetExhausted):
            driver.throw()

    def test_what_was_bought_but_not_scored_counts(self):
        driver = explore(a_search(), {"": [end("x", "1"), step("a")]}, {}, num_turns=1)
        driver.throw()
        assert isinstance(driver.action, Propose)
        assert driver.action.answer.text == "1"
        with pytest.raises(BudgetExhausted):
            driver.send(None)

    def test_with_little_left_and_no_answer_the_best_open_state_is_written_to_its_end_and_then_it_goes_on(self):
        driver = PolicyDriver(a_star, params={"expansion": 2}, cue="So: ")
        for left, num_turns in ((100, 1), (30, 1), (20, 1)):
            driver.send(driver.samples(step("a"), step("b"), snapshot=Snapshot(remaining={"output_tokens": left})))
            explore(driver, {}, lambda text: 0.9 if text[-1] == "b" else 0.1, num_turns=num_turns)
        assert expanded(driver) == ["", "b", "bb", "bbb"]
        rest = driver.action
        assert isinstance(rest, Expand)
        assert (rest.counts(), rest.sampling) == ((1,), GREEDY)
        driver.send(driver.samples(end("so 7", "7")))
        explore(driver, {}, lambda _: 0.1, num_turns=1)
        assert driver.proposals[-1].text == "7"
        driver.send(None)
        assert isinstance(driver.action, Expand)
        assert (expanded(driver)[-1], driver.action.counts()) == ("bbb", (2,))

    def test_without_an_answer_the_best_open_state_is_concluded(self):
        driver = PolicyDriver(a_star, params={"expansion": 2}, cue="So: ")
        explore(driver, BRANCHING, REWARD | {"pr": 0.2}, num_turns=4)
        assert expanded(driver) == ["", "p", "q"]
        driver.throw()
        assert isinstance(driver.action, Conclude)
        assert driver.action.node.trajectory == "q"
