"""REBASE, beam search and lookahead search, level by level."""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.actions import Action, Expand, Propose, Release, Score, ScoreList
from orchestrator.errors import BudgetExhausted
from orchestrator.policies import beam_search, lookahead, rebase
from orchestrator.policies.search.shares import balanced_shares
from orchestrator.policy import PolicySpec
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.testing.policy_contract import described
from orchestrator.tree import Node

from .by_hand import STEP, TOO_LONG, asked, play_level


def _number(node: Node) -> str:
    return node.id.split(".")[-1]


def releases(driver: PolicyDriver) -> list[Release]:
    return [action for action in driver.actions if isinstance(action, Release)]


class TestRebase:
    def test_the_root_gets_the_whole_width(self):
        driver = PolicyDriver(rebase, params={"width": 4})
        assert asked(driver) == [("root", 4)]

    def test_the_width_is_shared_by_the_softmax_of_the_rewards(self):
        driver = PolicyDriver(rebase, params={"width": 4})
        play_level(driver, [STEP] * 4, [0.9, 0.5, 0.1, 0.85])
        assert balanced_shares([0.9, 0.5, 0.1, 0.85], 4, 0.2) == [3, 0, 0, 1]
        assert asked(driver) == [("1", 3), ("4", 1)]

    def test_what_gets_no_share_is_let_go(self):
        driver = PolicyDriver(rebase, params={"width": 4})
        play_level(driver, [STEP] * 4, [0.9, 0.5, 0.1, 0.85])
        (release,) = releases(driver)
        assert [_number(node) for node in release.all_but] == ["1", "4"]
        assert release.reason

    def test_its_temperature_makes_it_greedier_or_fairer(self):
        shares = {}
        for temperature in (0.01, 100):
            driver = PolicyDriver(rebase, params={"width": 4, "balance_temperature": temperature})
            play_level(driver, [STEP] * 4, [0.9, 0.5, 0.1, 0.7])
            shares[temperature] = asked(driver)
        assert shares == {0.01: [("1", 4)], 100: [("1", 2), ("2", 1), ("4", 1)]}

    def test_what_has_ended_leaves_its_place(self):
        driver = PolicyDriver(rebase, params={"width": 4})
        play_level(driver, [STEP, "7", STEP, TOO_LONG], [0.5, 0.9, 0.5, 0.9])
        assert asked(driver) == [("1", 1), ("3", 1)]

    def test_it_goes_by_the_newest_step_only(self):
        driver = PolicyDriver(rebase, params={"width": 2, "aggregation": "min"})
        play_level(driver, [STEP] * 2, [0.1, 0.12])
        play_level(driver, [STEP] * 2, [0.9, 0.1])
        assert asked(driver) == [("3", 2)]

    def test_it_ends_when_all_places_are_left_and_the_rewards_weigh_the_votes(self):
        driver = PolicyDriver(rebase, params={"width": 3})
        play_level(driver, ["1", "2", "1"], [0.5, 0.8, 0.4])
        assert (driver.answer.text, driver.answer.confidence) == ("1", 0.5)

    def test_it_ends_at_its_depth(self):
        driver = PolicyDriver(rebase, params={"width": 2, "max_depth": 2}, cue="")
        play_level(driver, [STEP] * 2, [0.5, 0.5])
        play_level(driver, [STEP, "9"], [0.5, 0.1])
        assert driver.answer.text == "9"


class TestBeamSearch:
    def test_the_root_gets_the_whole_width(self):
        assert asked(PolicyDriver(beam_search, params={"width": 6, "expansion": 2})) == [("root", 6)]

    def test_the_best_are_each_continued(self):
        driver = PolicyDriver(beam_search, params={"width": 6, "expansion": 2})
        play_level(driver, [STEP] * 6, [0.1, 0.9, 0.3, 0.8, 0.7, 0.2])
        assert asked(driver) == [("2", 2), ("4", 2), ("5", 2)]
        (release,) = releases(driver)
        assert [_number(node) for node in release.all_but] == ["2", "4", "5"]
        assert release.reason == "not among the 3 best"

    def test_equals_stay_in_order(self):
        driver = PolicyDriver(beam_search, params={"width": 4, "expansion": 2})
        play_level(driver, [STEP] * 4, [0.5, 0.5, 0.5, 0.5])
        assert asked(driver) == [("1", 2), ("2", 2)]

    def test_a_width_that_does_not_divide_is_used_up_by_the_last_of_the_best(self):
        driver = PolicyDriver(beam_search, params={"width": 7, "expansion": 3})
        play_level(driver, [STEP] * 7, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
        assert asked(driver) == [("7", 3), ("6", 3), ("5", 1)]

    def test_what_has_ended_leaves_its_place(self):
        driver = PolicyDriver(beam_search, params={"width": 6, "expansion": 2})
        play_level(driver, [STEP, "7", STEP, TOO_LONG, STEP, STEP], [0.1, 0.9, 0.3, 0.8, 0.7, 0.2])
        assert asked(driver) == [("5", 2), ("3", 2)]
        play_level(driver, ["7", STEP, STEP, STEP], [0.9, 0.1, 0.2, 0.3])
        assert asked(driver) == [("10", 2), ("9", 1)]

    def test_a_single_place_is_one_trajectory_that_goes_on(self):
        driver = PolicyDriver(beam_search, params={"width": 1, "expansion": 4})
        play_level(driver, [STEP], [0.5])
        assert asked(driver) == [("1", 1)]

    def test_without_expansion_nothing_is_dropped(self):
        driver = PolicyDriver(beam_search, params={"width": 3, "expansion": 1})
        play_level(driver, [STEP] * 3, [0.1, 0.2, 0.3])
        assert asked(driver) == [("3", 1), ("2", 1), ("1", 1)]

    def test_trajectories_are_compared_by_all_their_steps_when_told_so(self):
        driver = PolicyDriver(beam_search, params={"width": 2, "expansion": 1, "aggregation": "min"})
        play_level(driver, [STEP] * 2, [0.2, 0.6])
        play_level(driver, [STEP] * 2, [0.5, 0.9])  # of the second (0.6), then of the first (0.2)
        assert asked(driver) == [("3", 1), ("4", 1)]

    def test_it_ends_when_all_places_are_left(self):
        driver = PolicyDriver(beam_search, params={"width": 2, "expansion": 2})
        play_level(driver, ["1", STEP], [0.9, 0.1])
        play_level(driver, ["2"], [0.95])
        assert driver.answer.text == "2"
        assert [proposal.text for proposal in driver.proposals] == ["1", "2"]


class TestLookahead:
    def test_a_step_is_worth_the_reward_at_the_end_of_its_greedy_rollout(self):
        driver = PolicyDriver(lookahead, params={"width": 2, "expansion": 2, "lookahead": 2, "temperature": 0.8})
        driver.send(driver.samples(STEP, STEP))
        for numbers in (["1", "2"], ["3", "4"]):
            assert asked(driver) == [(number, 1) for number in numbers]
            assert isinstance(driver.action, Expand)
            assert driver.action.sampling is not None
            assert driver.action.sampling.is_greedy
            assert driver.action.stop == ("\n\n",)
            driver.send(driver.samples(STEP, STEP))
        assert isinstance(driver.action, Score)
        assert [_number(node) for node in driver.action.nodes] == ["5", "6"]
        driver.send(ScoreList((0.2, 0.7)))
        rollouts, pruned = _next_releases(driver)
        assert [_number(node) for node in rollouts.all_but] == ["1", "2"]
        assert [_number(node) for node in pruned.all_but] == ["2"]
        assert asked(driver) == [("2", 2)]
        assert isinstance(driver.action, Expand)
        assert driver.action.sampling is not None
        assert driver.action.sampling.temperature == 0.8

    def test_a_rollout_ends_with_its_trajectory(self):
        driver = PolicyDriver(lookahead, params={"width": 4, "lookahead": 3})
        driver.send(driver.samples(STEP, "1", TOO_LONG, STEP))
        assert asked(driver) == [("1", 1), ("4", 1)]
        driver.send(driver.samples("2", TOO_LONG))
        assert isinstance(driver.action, Score)
        assert [_number(node) for node in driver.action.nodes] == ["5", "2", "3", "6"]

    def test_steps_that_have_all_ended_are_not_rolled_out(self):
        driver = PolicyDriver(lookahead, params={"width": 2, "lookahead": 3})
        play_level(driver, ["1", "2"], [0.1, 0.9])
        assert driver.answer.text == "2"
        assert releases(driver) == []

    def test_a_rollout_that_cannot_be_paid_for_leaves_the_step_its_own_reward(self):
        driver = PolicyDriver(lookahead, params={"width": 2, "expansion": 2})
        driver.send(driver.samples(STEP, STEP))
        driver.send(driver.samples(STEP))
        assert isinstance(driver.action, Score)
        assert [_number(node) for node in driver.action.nodes] == ["3", "2"]

    def test_a_rollouts_answer_is_proposed_but_has_no_vote_beside_the_searchs_own(self):
        driver = PolicyDriver(lookahead, params={"width": 2, "expansion": 2, "max_depth": 2})
        driver.send(driver.samples(STEP, STEP))
        driver.send(driver.samples("1", "1"))
        driver.send(ScoreList((0.9, 0.8)))
        assert isinstance(driver.action, Propose)
        assert (driver.action.answer.text, driver.action.answer.confidence) == ("1", 0.9)
        driver.send()
        _next_releases(driver)
        driver.send(driver.samples("2", "2"))
        driver.send(ScoreList((0.1, 0.1)))
        driver.send()
        assert driver.answer.text == "2"
        assert [proposal.text for proposal in driver.proposals] == ["1", "2"]

    def test_a_rollouts_answer_is_the_answer_if_there_is_no_other(self):
        driver = PolicyDriver(lookahead, params={"width": 2, "expansion": 2, "max_depth": 1})
        driver.send(driver.samples(STEP, STEP))
        driver.send(driver.samples("1", "2"))
        driver.send(ScoreList((0.3, 0.6)))
        driver.send()
        _next_releases(driver)
        assert (driver.answer.text, driver.answer.confidence) == ("2", 0.6)

    def test_a_rollouts_answer_stands_when_the_budget_ends_before_it_is_judged(self):
        driver = PolicyDriver(lookahead, params={"width": 2})
        driver.send(driver.samples(STEP, STEP))
        driver.send(driver.samples("1", STEP))
        driver.throw()
        assert isinstance(driver.action, Propose)
        assert driver.action.answer.text == "1"
        with pytest.raises(BudgetExhausted):
            driver.send()

    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 10**6), width=st.integers(1, 9), expansion=st.integers(1, 4))
    def test_without_lookahead_it_is_beam_search(self, seed: int, width: int, expansion: int):
        params = {"width": width, "expansion": expansion, "max_depth": 5}
        one, other = (
            PolicyDriver(beam_search, params=params),
            PolicyDriver(lookahead, params={**params, "lookahead": 0}),
        )
        answers = [driver.run(world(seed), scores=rewards(seed)) for driver in (one, other)]
        assert described(one.actions) == described(other.actions)
        assert described(answers[0]) == described(answers[1])


def _next_releases(driver: PolicyDriver) -> list[Release]:
    """Grants the releases that follow."""
    found: list[Release] = []
    while not driver.is_finished and isinstance(driver.action, Release):
        found.append(driver.action)
        driver.send()
    return found


def world(seed: int) -> Callable[[Action], Sampled | str]:
    """Endless samples: steps, answers, and now and then one that is too long."""
    rng = random.Random(seed)
    return lambda _: rng.choice([STEP, STEP, STEP, STEP, "1", "2", TOO_LONG])


def rewards(seed: int) -> Iterator[float | None]:
    """Endless rewards, some of them missing."""
    rng = random.Random(-seed)
    return (rng.choice([None, 0.0, 1.0, rng.random(), rng.random()]) for _ in itertools.count())


@pytest.mark.parametrize(
    ("policy", "params"),
    [(rebase, {}), (beam_search, {"expansion": 3}), (beam_search, {"expansion": 1, "aggregation": "product"})],
)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 12))
def test_each_level_asks_for_exactly_the_places_that_are_left(
    policy: PolicySpec, params: dict[str, Any], seed: int, width: int
):
    driver = PolicyDriver(policy, params={**params, "width": width, "max_depth": 8})
    draw, marks = world(seed), rewards(seed)
    places = width
    while not driver.is_finished:
        if isinstance(driver.action, Expand):
            counts = driver.action.counts()
            assert sum(counts) == places
            assert min(counts) >= 1
            assert max(counts) <= params.get("expansion", width) or driver.action.nodes == [driver.query.root]
            samples = driver.samples(*(draw(driver.action) for _ in range(places)))
            places -= sum(node.is_final or node.trajectory_tokens >= 2048 for node in samples)
            driver.send(samples)
        elif isinstance(driver.action, Score):
            driver.send(ScoreList(tuple(itertools.islice(marks, len(driver.action.nodes)))))
        elif isinstance(driver.action, Propose | Release):
            driver.send()
        else:
            driver.send(driver.sample("concluded"))


@pytest.mark.parametrize("policy", [rebase, beam_search, lookahead])
def test_the_last_proposal_stands_when_the_budget_ends_in_the_middle_of_a_level(policy: PolicySpec):
    driver = PolicyDriver(policy, params={"width": 2, "expansion": 1} if policy is not rebase else {"width": 2})
    answer = driver.run(["1", STEP, STEP], scores=itertools.repeat(0.5))
    assert answer.text == "1"
