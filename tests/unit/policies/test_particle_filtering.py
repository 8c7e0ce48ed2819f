"""Particle filtering and particle Gibbs: who is drawn, who is paid for, who votes."""

import itertools
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.actions import Conclude, Expand, Release
from orchestrator.policies import particle_filtering
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node

from .by_hand import STEP, TOO_LONG, asked, play_level

ERROR_RATE = 1e-6
"""Of each statistical test below: how often it would fail though the draws are right."""


def start(seed: int = 0, **params: Any) -> PolicyDriver:  # Any: parameters of the policy
    return PolicyDriver(particle_filtering, params=params, seed=seed)


def counted(driver: PolicyDriver) -> dict[str, int]:
    """The pending expansion: how many samples of each node, by its number in order of creation."""
    pairs = asked(driver)
    assert len(dict(pairs)) == len(pairs), "a node is asked for twice"
    return dict(pairs)


def _number(node: Node) -> str:
    return node.id.split(".")[-1]


def last_release(driver: PolicyDriver) -> Release:
    return [action for action in driver.actions if isinstance(action, Release)][-1]


class TestOnePass:
    def test_all_particles_start_at_the_root(self):
        assert counted(start(width=5)) == {"root": 5}

    def test_a_particle_drawn_several_times_is_one_node_continued_as_often(self):
        driver = start(width=4)
        play_level(driver, [STEP] * 4, [0.0, 1.0, 0.0, 0.0])
        assert counted(driver) == {"2": 4}

    def test_what_is_not_drawn_is_let_go_and_the_effective_sample_size_is_told(self):
        driver = start(width=4)
        play_level(driver, [STEP] * 4, [0.0, 1.0, 0.0, 0.0])
        assert [_number(node) for node in last_release(driver).all_but] == ["2"]
        assert last_release(driver).reason == "not drawn again (effective sample size 1.0 of 4)"

    def test_there_are_always_as_many_particles(self):
        driver = start(width=6)
        for _ in range(4):
            play_level(driver, [STEP] * 6, [0.1, 0.9, 0.5, 0.5, 0.2, 0.3])
            assert sum(counted(driver).values()) == 6

    def test_a_finished_particle_stays_and_may_be_drawn_in_the_place_of_others(self):
        driver = start(width=3)
        play_level(driver, ["7", STEP, STEP], [1.0, 0.0, 0.0])
        assert driver.answer.text == "7"  # it was drawn three times, so all have finished
        assert driver.num_requested == 3

    def test_copies_of_finished_particles_take_places_of_those_that_go_on(self):
        driver = start(width=4, resampling="systematic")
        play_level(driver, ["7", STEP, STEP, STEP], [0.5, 0.5, 0.0, 0.0])
        assert counted(driver) == {"2": 2}

    def test_finished_particles_stay_in_the_population_at_later_levels(self):
        driver = start(width=4, resampling="systematic")
        play_level(driver, ["7", STEP, STEP, STEP], [0.5, 0.5, 0.0, 0.0])
        play_level(driver, [STEP, STEP], [0.5, 0.0])  # beside two copies of the finished one, so a third of the odds
        assert counted(driver) in ({"5": 1}, {"5": 2})
        assert last_release(driver).reason == "not drawn again (effective sample size 3.0 of 4)"

    def test_one_that_grew_too_long_is_not_drawn(self):
        driver = start(width=3)
        play_level(driver, [TOO_LONG, STEP, TOO_LONG], [1.0, 0.1, 1.0])
        assert counted(driver) == {"2": 3}

    def test_it_ends_when_nothing_can_go_on(self):
        driver = start(width=2)
        play_level(driver, [TOO_LONG, TOO_LONG], [1.0, 0.1])
        assert isinstance(driver.action, Conclude)

    def test_each_finished_trajectory_votes_once_also_if_it_was_dropped_and_however_often_it_was_drawn(self):
        driver = start(width=3, selection="majority")
        play_level(driver, ["1", "2", STEP], [0.0, 1.0, 0.0])
        assert driver.num_requested == 3
        assert driver.answer.alternatives == (("2", 0.5),)

    def test_the_largest_weight_answers_when_told_so(self):
        driver = start(width=3, selection="best")
        play_level(driver, ["1", "2", "1"], [0.5, 0.8, 0.6])
        assert (driver.answer.text, driver.answer.confidence) == ("2", 0.8)

    def test_its_weights_are_made_of_all_steps_when_told_so(self):
        driver = start(width=2, aggregation="min", resampling="systematic")
        play_level(driver, [STEP, STEP], [0.0, 0.5])
        assert counted(driver) == {"2": 2}
        play_level(driver, [STEP, STEP], [1.0, 0.5])
        assert counted(driver) == {"3": 1, "4": 1}

    def test_a_verifier_that_says_nothing_leaves_all_alike(self):
        driver = start(width=4, resampling="systematic")
        play_level(driver, [STEP] * 4, [None] * 4)
        assert counted(driver) == {"1": 1, "2": 1, "3": 1, "4": 1}

    def test_a_temperature_makes_it_greedier(self):
        driver = start(width=4, weight_temperature=0.01)
        play_level(driver, [STEP] * 4, [0.5, 0.55, 0.5, 0.45])
        assert counted(driver) == {"2": 4}

    def test_it_ends_at_its_depth(self):
        driver = start(width=2, max_depth=2)
        for _ in range(2):
            play_level(driver, [STEP, STEP], [0.5, 0.5])
        assert isinstance(driver.action, Conclude)

    def test_particles_are_drawn_by_their_odds(self):
        # Pearson's chi-square; draws of different seeds, and within one population, are independent.
        rewards, num_seeds, width = [0.9, 0.75, 0.5, 0.2], 300, 4
        odds = [reward / (1 - reward) for reward in rewards]
        drawn: Counter[str] = Counter()
        for seed in range(num_seeds):
            driver = start(seed, width=width)
            play_level(driver, [STEP] * width, rewards)
            drawn.update(counted(driver))
        observed = [drawn[str(number)] for number in range(1, width + 1)]
        expected = [num_seeds * width * value / sum(odds) for value in odds]
        assert sum(observed) == num_seeds * width
        assert stats.chisquare(observed, expected).pvalue > ERROR_RATE


class TestSeveralPasses:
    def test_the_next_pass_starts_anew_with_one_particle_less(self):
        driver = start(width=3, iterations=2)
        play_level(driver, ["1", "2", "3"], [0.5, 0.5, 0.5])
        assert counted(driver) == {"root": 2}

    def test_the_reference_is_kept_for_the_next_pass(self):
        driver = start(width=3, iterations=2)
        play_level(driver, ["1", "2", "3"], [0.0, 1.0, 0.0])
        assert [_number(node) for node in last_release(driver).all_but] == ["2"]

    def test_the_references_steps_so_far_may_be_drawn_and_are_not_paid_for_again(self):
        driver = start(width=3, iterations=2)
        play_level(driver, [STEP] * 3, [1.0, 0.0, 0.0])
        assert counted(driver) == {"1": 3}
        play_level(driver, ["4", "5", "6"], [0.0, 1.0, 0.0])  # of which the second is the reference
        assert counted(driver) == {"root": 2}
        play_level(driver, [STEP] * 2, [0.0, 0.0])  # its first step, with reward 1, beats both
        assert counted(driver) == {"1": 2}
        assert {_number(node) for node in last_release(driver).all_but} == {"1", "5"}

    def test_the_reference_is_never_replaced(self):
        driver = start(width=3, iterations=3)
        play_level(driver, ["1", "2", "3"], [0.9, 0.0, 0.0])
        for _ in range(2):
            play_level(driver, [STEP] * 2, [1.0, 0.0])
            assert "1" in [_number(node) for node in last_release(driver).all_but]
            play_level(driver, ["8", "9"], [0.0, 0.0])
        assert driver.is_finished

    def test_a_finished_reference_may_be_drawn_for_all_and_ends_the_pass(self):
        driver = start(width=3, iterations=2)
        play_level(driver, ["1", "2", "3"], [0.0, 1.0, 0.0])
        play_level(driver, [STEP] * 2, [0.0, 0.0])
        assert driver.is_finished

    def test_all_passes_vote(self):
        driver = start(width=2, iterations=2, selection="majority")
        play_level(driver, ["1", "2"], [0.5, 0.5])
        play_level(driver, ["2"], [0.5])
        assert driver.answer.text == "2"

    def test_the_reference_is_drawn_by_its_weight(self):
        # Exact binomial bounds; one draw for each seed.
        num_seeds, rewards = 300, [0.75, 0.5]
        drawn: Counter[str] = Counter()
        for seed in range(num_seeds):
            driver = start(seed, width=2, iterations=2)
            play_level(driver, ["1", "2"], rewards)
            drawn.update(_number(node) for node in last_release(driver).all_but)
        low, high = stats.binom.interval(1 - ERROR_RATE, num_seeds, 3 / (3 + 1))
        assert low <= drawn["1"] <= high
        assert drawn.total() == num_seeds

    def test_a_single_particle_has_no_second_pass(self):
        driver = start(width=1, iterations=5)
        play_level(driver, ["1"], [0.5])
        assert driver.answer.text == "1"

    def test_after_a_pass_in_which_all_grew_too_long_there_is_no_other(self):
        driver = start(width=2, iterations=5)
        play_level(driver, [TOO_LONG, TOO_LONG], [0.5, 0.5])
        assert isinstance(driver.action, Conclude)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    params=st.fixed_dictionaries(
        {
            "width": st.integers(1, 8),
            "iterations": st.integers(1, 3),
            "resampling": st.sampled_from(["multinomial", "systematic"]),
        }
    ),
    replies=st.lists(st.sampled_from([STEP, STEP, STEP, "1", "2", TOO_LONG]), min_size=1, max_size=20),
    rewards=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=20),
)
def test_each_step_buys_at_most_one_sample_for_each_particle_of_distinct_open_nodes(
    seed: int, params: dict[str, Any], replies: list[Sampled | str], rewards: list[float | None]
):
    driver = PolicyDriver(particle_filtering, params={**params, "max_depth": 6}, seed=seed, cue="")
    driver.run(itertools.cycle(replies), scores=itertools.cycle(rewards))
    for action in driver.actions:
        if isinstance(action, Expand):
            assert len(set(action.nodes)) == len(action.nodes)
            assert sum(action.counts()) <= params["width"]
            assert not any(node.is_final for node in action.nodes)
