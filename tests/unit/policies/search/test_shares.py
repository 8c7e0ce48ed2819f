"""How REBASE divides a width among trajectories."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.search.shares import balanced_shares

REWARDS = st.lists(st.floats(0, 1), min_size=1, max_size=40)
TEMPERATURES = st.floats(1e-6, 100)


def test_the_textbook_case():
    assert balanced_shares([0.9, 0.5, 0.1, 0.85], 16, 0.2) == [9, 1, 0, 6]


@given(rewards=REWARDS, width=st.integers(0, 300), temperature=TEMPERATURES)
def test_shares_add_up_to_the_width_and_none_is_negative(rewards: list[float], width: int, temperature: float):
    shares = balanced_shares(rewards, width, temperature)
    assert sum(shares) == width
    assert min(shares) >= 0


@given(rewards=REWARDS, width=st.integers(0, 300), temperature=TEMPERATURES)
def test_a_share_is_at_least_the_softmax_says_until_the_width_runs_out(
    rewards: list[float], width: int, temperature: float
):
    shares = balanced_shares(rewards, width, temperature)
    total = math.fsum(math.exp((reward - max(rewards)) / temperature) for reward in rewards)
    best = max(range(len(rewards)), key=lambda index: rewards[index])
    assert shares[best] == math.ceil(width / total * (1 - 1e-12))


@given(rewards=REWARDS, width=st.integers(0, 300), temperature=TEMPERATURES)
def test_no_share_is_larger_than_that_of_a_better_reward(rewards: list[float], width: int, temperature: float):
    shares = balanced_shares(rewards, width, temperature)
    best_first = [shares[index] for index in sorted(range(len(rewards)), key=lambda index: -rewards[index])]
    assert best_first == sorted(shares, reverse=True)


@given(
    rewards=st.lists(st.floats(0, 1), min_size=1, max_size=20, unique=True),
    width=st.integers(0, 100),
    temperature=TEMPERATURES,
    data=st.data(),
)
def test_the_order_of_distinct_rewards_does_not_matter(
    rewards: list[float], width: int, temperature: float, data: st.DataObject
):
    order = data.draw(st.permutations(range(len(rewards))))
    shares = balanced_shares(rewards, width, temperature)
    assert balanced_shares([rewards[index] for index in order], width, temperature) == [shares[i] for i in order]


@pytest.mark.parametrize("reward", [0.0, 0.3, 1.0])
def test_equal_rewards_share_alike(reward: float):
    assert balanced_shares([reward] * 4, 16, 0.2) == [4, 4, 4, 4]
    assert balanced_shares([reward] * 3, 3, 0.2) == [1, 1, 1]


def test_of_equals_the_first_get_what_does_not_divide():
    assert balanced_shares([0.5] * 4, 6, 0.2) == [2, 2, 1, 1]
    assert balanced_shares([0.1, 0.9, 0.9], 3, 0.2) == [0, 2, 1]


def test_a_tiny_temperature_gives_all_to_the_best():
    assert balanced_shares([0.2, 0.9, 0.899], 7, 1e-9) == [0, 7, 0]
    assert balanced_shares([0.9, 0.2, 0.9], 7, 1e-9) == [4, 0, 3]


def test_a_high_temperature_shares_almost_alike():
    assert balanced_shares([0.0, 1.0, 0.5], 9, 100) == [2, 4, 3]


def test_there_may_be_nothing_to_share_or_nobody_to_share_it():
    assert balanced_shares([0.4, 0.6], 0, 0.2) == [0, 0]
    assert balanced_shares([], 16, 0.2) == []
    assert balanced_shares([0.0], 5, 0.2) == [5]


def test_a_wide_level_is_shared_exactly():
    rewards = [index / 4096 for index in range(4096)]
    assert sum(balanced_shares(rewards, 4096, 0.2)) == 4096
