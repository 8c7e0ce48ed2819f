"""Partial solutions and their rewards."""

from collections.abc import Sequence

import pytest

from orchestrator.engine import Message
from orchestrator.policies.search.partial import UNKNOWN_REWARD, Partial
from orchestrator.step_scores import Aggregation
from orchestrator.tree import Node

ROOT = Node("root", messages=(Message("user", "?"),))


def grown(rewards: Sequence[float | None]) -> Partial:
    partial = Partial(ROOT)
    for number, reward in enumerate(rewards):
        partial = partial.extended(Node(str(number), parent=partial.node), reward)
    return partial


def test_nothing_is_wrong_yet_in_an_empty_trajectory():
    empty = Partial(ROOT)
    assert empty.reward == 1
    assert empty.score("min") == 1


def test_each_step_adds_its_node_and_its_reward():
    partial = grown([0.9, 0.4])
    assert [node.id for node in partial.node.path()] == ["root", "0", "1"]
    assert partial.rewards == (0.9, 0.4)
    assert partial.reward == 0.4


def test_it_is_not_changed_by_being_extended():
    first = grown([0.9])
    first.extended(Node("x", parent=first.node), 0.1)
    assert first.rewards == (0.9,)


def test_a_step_without_a_reward_is_taken_to_be_as_good_as_the_one_before():
    assert grown([0.3, None, None, 0.8, None]).rewards == (0.3, 0.3, 0.3, 0.8, 0.8)


def test_a_first_step_without_a_reward_is_unknown():
    assert grown([None, 0.9]).rewards == (UNKNOWN_REWARD, 0.9)


def test_a_reward_of_0_is_not_a_missing_one():
    assert grown([0.9, 0.0]).rewards == (0.9, 0.0)


@pytest.mark.parametrize(("how", "score"), [("last", 0.5), ("min", 0.2), ("mean", 0.5), ("product", 0.08)])
def test_its_score_puts_the_rewards_of_its_steps_together(how: Aggregation, score: float):
    assert grown([0.8, 0.2, 0.5]).score(how) == pytest.approx(score)


def test_its_first_steps_are_a_trajectory_too():
    partial = grown([0.9, 0.4, 0.6])
    assert partial.until(2).rewards == (0.9, 0.4)
    assert partial.until(2).node is partial.node.parent
    assert partial.until(0).node is ROOT
    assert partial.until(3) is partial
    assert partial.until(99) is partial


def test_trajectories_are_told_apart_by_identity():
    assert Partial(ROOT) != Partial(ROOT)
    assert len({grown([0.5]), grown([0.5])}) == 2
