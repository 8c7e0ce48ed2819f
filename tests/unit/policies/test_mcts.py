"""Monte-Carlo tree search over steps: where it goes, what it backs up, what it buys at the same time."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.actions import Conclude, Expand
from orchestrator.policies.mcts import mcts
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.visits import FORMULAS, FormulaName, Visited, puct, softmax, uct
from orchestrator.sampling import GREEDY
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node

from .worlds import end, expanded, explore, kept, scored, step

FOUR = [step(letter) for letter in "abcd"]
ENDED = "all that goes on from it has ended"


def a_search(**params: Any) -> PolicyDriver:
    return PolicyDriver(mcts, params=params, cue="")


def grown(leaf: Visited, *values: float, num_going_on: int | None = None) -> list[Visited]:
    """What a simulation that was begun at ``leaf`` found."""
    found = [Partial(Node("n"), (value,)) for value in values]
    leaf.end(found, values, going_on=found[:num_going_on])
    return leaf.children


def a_root() -> Visited:
    return Visited(Partial(Node("root")))


class TestStatistics:
    def test_values_are_backed_up_to_the_root(self):
        root = a_root()
        left, right = grown(root.begin(uct, 1.0), 0.8, 0.4)
        assert root.begin(uct, 1.0) is left
        deep, _ = grown(left, 0.6, 0.2)
        assert [(node.visits, node.value_sum) for node in (deep, left, right, root)] == [
            (1, 0.6), (3, pytest.approx(1.6)), (1, 0.4), (4, pytest.approx(2.0))
        ]  # fmt: skip

    def test_priors_are_the_softmax_of_the_values_of_siblings(self):
        root = a_root()
        children = grown(root.begin(uct, 1.0), 0.8, 0.4, 0.4)
        total = math.exp(0.8) + 2 * math.exp(0.4)
        assert [child.prior for child in children] == pytest.approx([math.exp(v) / total for v in (0.8, 0.4, 0.4)])
        assert softmax([]) == []

    def test_uct_by_hand(self):
        root = a_root()
        child, _ = grown(root.begin(uct, 1.0), 0.7, 0.7)
        child.visits, child.value_sum = 4, 2.0
        assert uct(child, 10, math.sqrt(2)) == pytest.approx(0.5 + math.sqrt(2) * 0.5 * math.sqrt(math.log(10) / 4))

    def test_puct_by_hand(self):
        root = a_root()
        child, _ = grown(root.begin(uct, 1.0), 0.7, 0.7)
        child.visits, child.value_sum = 4, 2.0
        assert puct(child, 9, 1.5) == pytest.approx(0.5 + 1.5 * 0.5 * 3 / 5)

    def test_what_is_under_way_counts_as_visits_that_were_worth_nothing(self):
        root = a_root()
        left, right = grown(root.begin(uct, 0.0), 0.8, 0.5)
        assert root.begin(uct, 0.0) is left
        assert (left.mean, root.mean) == (0.4, pytest.approx(1.3 / 3))
        assert root.begin(uct, 0.0) is right
        assert root.num_open == 0
        grown(left, 0.8)
        assert left.mean == pytest.approx(0.8)

    def test_what_has_ended_is_not_visited_again(self):
        root = a_root()
        best, other = grown(root.begin(uct, 0.0), 0.9, 0.1)
        assert root.begin(uct, 0.0) is best
        grown(best, 0.9, 0.9, num_going_on=0)
        assert root.begin(uct, 0.0) is other
        assert root.num_open == 0

    def test_open_leaves_and_the_most_visited_one(self):
        root = a_root()
        left, right = grown(root.begin(uct, 0.0), 0.5, 0.9)
        assert root.begin(uct, 0.0) is right
        deep = grown(right, 0.9, 0.8, num_going_on=1)
        assert root.open_leaves() == [left, deep[0]]
        assert root.most_visited_leaf() is deep[0]

    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 10**6), batch=st.integers(1, 4), formula=st.sampled_from(sorted(FORMULAS)))
    def test_the_books_balance_however_batches_end(self, seed: int, batch: int, formula: FormulaName):
        rng = np.random.default_rng(seed)
        root = a_root()
        for _ in range(12):
            leaves = [root.begin(FORMULAS[formula], 1.0) for _ in range(min(batch, root.num_open))]
            assert len(set(leaves)) == len(leaves)
            for leaf in leaves:
                values = rng.random(rng.integers(0, 4)).tolist()
                grown(leaf, *values, num_going_on=int(rng.integers(0, len(values) + 1)))
        stack = [root]
        while stack:
            node = stack.pop()
            stack += node.children
            assert node.num_pending == 0
            assert node.num_open == len(node.open_leaves())
            own = 0 if node is root else 1
            assert node.visits == own + sum(child.visits for child in node.children)


@pytest.mark.parametrize("formula", sorted(FORMULAS))
@pytest.mark.parametrize("parallel", [1, 4])
def test_most_simulations_go_to_the_best_arm_of_a_bandit(formula: FormulaName, parallel: int):
    """All rewards are 0 or 1: below one of four first steps 0.8 of them are 1, below the others 0.3.

    A run fails if the best arm gets no more than half of 59 simulations. In 400 runs with other seeds at most 17 did
    (UCT one at a time, whose first draws may mislead it for long; the others none), and even with a chance of 0.06 five
    of ten fail in 1 test of 5,000.
    """
    failures = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        chance = dict(zip("abcd", rng.permutation([0.8, 0.3, 0.3, 0.3]), strict=True))
        search = a_search(num_simulations=60, parallel=parallel, formula=formula, expansion=4, max_tokens=10**6)
        explore(search, lambda _: FOUR, lambda text, rng=rng, chance=chance: float(rng.random() < chance[text[0]]))
        arms = [text[0] for text in expanded(search)[1:60]]
        failures += arms.count(max(chance, key=chance.__getitem__)) <= len(arms) / 2
    assert failures < 5


class TestSearch:
    def test_each_simulation_samples_steps_of_one_leaf(self):
        search = explore(
            a_search(num_simulations=3), lambda _: FOUR, lambda text: 0.9 if text[-1] == "a" else 0.1, num_turns=6
        )
        assert expanded(search)[:3] == ["", "a", "aa"]
        assert [action.counts() for action in search.actions if isinstance(action, Expand)][:3] == [(2,)] * 3

    def test_leaves_of_a_batch_are_expanded_in_one_action(self):
        search = explore(
            a_search(num_simulations=5, parallel=3, expansion=4), lambda _: FOUR, lambda _: 0.5, num_turns=6
        )
        batches = [len(action.nodes) for action in search.actions if isinstance(action, Expand)]
        assert batches[:3] == [1, 3, 1]  # the root alone, three of its children, and what is left of five

    def test_equal_steps_are_scored_once_and_may_each_be_gone_on_from(self):
        search = explore(a_search(num_simulations=3, parallel=2), lambda _: [step("a")], lambda _: 0.5, num_turns=3)
        assert expanded(search) == ["", "a", "a"]
        assert scored(search) == ["a", "aa", "aa"]

    def test_it_ends_when_nothing_is_left_to_expand(self):
        said = {"": [step("a"), step("b")], "a": [end("x", "1")], "b": [end("y", "2")]}
        search = explore(a_search(num_simulations=50), said, {"a": 0.9, "b": 0.5, "ax": 0.9, "by": 0.5})
        assert expanded(search) == ["", "a", "b"]
        assert search.answer.text == "1"
        assert [proposal.text for proposal in search.proposals] == ["1", "1"]  # the second knows its rival
        assert kept(search) == [({"b"}, ENDED)]

    def test_steps_beyond_the_depth_limit_are_not_expanded(self):
        search = explore(a_search(num_simulations=50, max_depth=2), lambda _: FOUR[:2], lambda _: 0.5)
        assert sorted(expanded(search)) == ["", "a", "b"]

    def test_with_no_answer_the_most_visited_path_is_written_to_its_end(self):
        def said(text: str) -> list[Sampled]:
            return [end("So 7.", "7")] if len(text) == 2 else [step("a"), step("b")]

        search = explore(a_search(num_simulations=2), said, lambda text: 0.2 if "b" in text else 0.9)
        rest = [action for action in search.actions if isinstance(action, Expand)][-1]
        assert (rest.nodes[0].trajectory, rest.counts(), rest.sampling) == ("aa", (1,), GREEDY)
        assert search.answer.text == "7"

    def test_a_missing_score_is_that_of_the_step_before(self):
        said = {"": [step("a"), step("b")], "a": [step("c"), step("d")]}
        search = explore(
            a_search(num_simulations=3, exploration=0), said, {"a": 0.9, "b": 0.4, "ac": None, "ad": 0.3}, num_turns=4
        )
        assert expanded(search) == ["", "a", "ac"]

    def test_rollouts_give_steps_their_values_and_answers_their_votes(self):
        def said(text: str) -> list[Sampled]:
            return [step("a"), step("b")] if not text else [end("!", text[0])]

        worth = {"a": 0.9, "b": 0.1, "a!": 0.2, "b!": 0.8}
        search = a_search(num_simulations=2, rollouts=True, exploration=0)
        explore(search, said, worth, num_turns=6)
        rollout = search.actions[2]
        assert isinstance(rollout, Expand)
        assert ([node.text for node in rollout.nodes], rollout.counts(), rollout.stop) == (["a", "b"], (1, 1), ())
        assert search.proposals[-1].text == "b"
        assert kept(search) == [({"a", "b"}, ENDED)]
        assert expanded(search)[-1] == "b"

    def test_without_money_for_rollouts_steps_are_worth_their_own_scores(self):
        search = explore(
            a_search(num_simulations=2, rollouts=True, exploration=0), lambda _: FOUR, {"a": 0.4, "b": 0.5}, num_turns=2
        )
        search.throw()
        assert expanded(search)[-1] == "b"

    def test_when_the_budget_ends_the_leaf_it_was_at_is_concluded(self):
        search = PolicyDriver(mcts, params={"exploration": 0}, cue="So: ")
        explore(search, lambda _: FOUR, {"a": 0.4, "b": 0.5, "ba": 0.1, "bb": 0.1}, num_turns=4)
        assert expanded(search) == ["", "b", "a"]
        search.throw()
        assert isinstance(search.action, Conclude)
        assert search.action.node.trajectory == "a"
