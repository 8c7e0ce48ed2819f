"""Diverse verifier tree search: what each subtree keeps, and when it ends."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.actions import Conclude, Expand, Release
from orchestrator.policies import dvts
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node

from .by_hand import STEP, TOO_LONG, asked, play_level


def _number(node: Node) -> str:
    return node.id.split(".")[-1]


def test_each_subtree_keeps_its_best_even_if_all_of_another_are_better():
    driver = PolicyDriver(dvts, params={"width": 6, "expansion": 3})
    assert asked(driver) == [("root", 6)]
    play_level(driver, [STEP] * 6, [0.1, 0.3, 0.2, 0.7, 0.8, 0.9])
    assert asked(driver) == [("2", 3), ("6", 3)]
    play_level(driver, [STEP] * 6, [0.9, 0.8, 0.7, 0.1, 0.2, 0.3])
    assert asked(driver) == [("7", 3), ("12", 3)]


def test_what_is_not_the_best_of_its_subtree_is_let_go():
    driver = PolicyDriver(dvts, params={"width": 4, "expansion": 2})
    play_level(driver, [STEP] * 4, [0.1, 0.3, 0.9, 0.8])
    (release,) = [action for action in driver.actions if isinstance(action, Release)]
    assert [_number(node) for node in release.all_but] == ["2", "3"]
    assert release.reason == "not the best of its subtree"


def test_of_equals_the_first_is_kept():
    driver = PolicyDriver(dvts, params={"width": 4, "expansion": 2})
    play_level(driver, [STEP] * 4, [0.5] * 4)
    assert asked(driver) == [("1", 2), ("3", 2)]


def test_the_last_subtree_gets_what_is_left_of_the_width():
    driver = PolicyDriver(dvts, params={"width": 5, "expansion": 2})
    play_level(driver, [STEP] * 5, [0.1, 0.2, 0.3, 0.4, 0.0])
    assert asked(driver) == [("2", 2), ("4", 2), ("5", 1)]


def test_a_width_below_the_expansion_is_one_subtree():
    driver = PolicyDriver(dvts, params={"width": 3, "expansion": 4})
    play_level(driver, [STEP] * 3, [0.1, 0.9, 0.3])
    assert asked(driver) == [("2", 3)]


def test_without_expansion_it_is_independent_samples():
    driver = PolicyDriver(dvts, params={"width": 3, "expansion": 1})
    play_level(driver, [STEP] * 3, [0.0, 0.5, 1.0])
    assert asked(driver) == [("1", 1), ("2", 1), ("3", 1)]


def test_a_subtree_ends_when_its_best_has_finished_and_the_others_keep_their_size():
    driver = PolicyDriver(dvts, params={"width": 4, "expansion": 2})
    play_level(driver, ["7", STEP, STEP, STEP], [0.9, 0.8, 0.1, 0.2])
    assert asked(driver) == [("4", 2)]
    play_level(driver, [STEP, STEP], [0.3, 0.4])
    assert asked(driver) == [("6", 2)]


def test_a_finished_one_that_is_not_the_best_has_its_vote_but_does_not_end_the_subtree():
    driver = PolicyDriver(dvts, params={"width": 3, "expansion": 3})
    play_level(driver, ["7", "7", STEP], [0.3, 0.4, 0.5])
    assert asked(driver) == [("3", 3)]
    play_level(driver, ["8", STEP, STEP], [0.6, 0.1, 0.1])
    assert driver.answer.text == "7"  # 0.3 + 0.4 against 0.6


def test_all_that_finished_in_the_last_round_vote():
    driver = PolicyDriver(dvts, params={"width": 3, "expansion": 3})
    play_level(driver, ["1", "2", "2"], [0.6, 0.4, 0.4])
    assert driver.answer.text == "2"


def test_one_that_grew_too_long_is_not_kept():
    driver = PolicyDriver(dvts, params={"width": 4, "expansion": 2})
    play_level(driver, [TOO_LONG, STEP, TOO_LONG, TOO_LONG], [0.9, 0.1, 0.9, 0.9])
    assert asked(driver) == [("2", 2)]


def test_subtrees_are_compared_by_all_their_steps_when_told_so():
    driver = PolicyDriver(dvts, params={"width": 2, "expansion": 2, "aggregation": "mean", "selection": "best"})
    play_level(driver, [STEP, STEP], [0.2, 0.4])
    play_level(driver, ["1", STEP], [0.9, 0.9])
    assert (driver.answer.text, driver.answer.confidence) == ("1", pytest.approx(0.65))


def test_a_verifier_that_says_nothing_leaves_the_first_of_each_subtree():
    driver = PolicyDriver(dvts, params={"width": 4, "expansion": 2})
    play_level(driver, [STEP] * 4, [None] * 4)
    assert asked(driver) == [("1", 2), ("3", 2)]


def test_when_the_budget_ends_before_any_answer_the_best_subtree_is_concluded():
    driver = PolicyDriver(dvts, params={"width": 4, "expansion": 2})
    play_level(driver, [STEP] * 4, [0.1, 0.3, 0.9, 0.8])
    driver.throw()
    assert isinstance(driver.action, Conclude)
    assert _number(driver.action.node) == "3"


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 10),
    expansion=st.integers(1, 4),
    replies=st.lists(st.sampled_from([STEP, STEP, STEP, "1", "2", TOO_LONG]), min_size=1, max_size=20),
    rewards=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=20),
)
def test_no_level_is_wider_than_the_width_and_no_subtree_takes_the_place_of_another(
    width: int, expansion: int, replies: list[Sampled | str], rewards: list[float | None]
):
    driver = PolicyDriver(dvts, params={"width": width, "expansion": expansion, "max_depth": 6}, cue="")
    driver.run(itertools.cycle(replies), scores=itertools.cycle(rewards))
    expansions = [action for action in driver.actions if isinstance(action, Expand)]
    for action in expansions[1:]:
        firsts = [node.path()[1] for node in action.nodes]
        groups = {(int(_number(first)) - 1) // expansion for first in firsts}
        assert len(groups) == len(firsts)
        assert sum(action.counts()) <= width
        assert max(action.counts()) <= expansion
