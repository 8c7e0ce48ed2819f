"""Blurred checkers: as good as they say, the same for equal texts, and for the lab's problems only."""

from __future__ import annotations

import random

import pytest

from orchestrator.bench.lab.auc import auc
from orchestrator.bench.noisy_checker import noisy_checker
from orchestrator.bench.tasks import TASKS, steps_of
from orchestrator.engine import Prompt
from orchestrator.verifier import Candidate


def candidate(problem: str, text: str) -> Candidate:
    return Candidate(problem=problem, text=text, answer=None, answer_class=None, is_final=False, prompt=Prompt(()))


@pytest.mark.parametrize("wanted", [0.7, 0.95])
async def test_rewards_tell_good_steps_from_bad_ones_as_well_as_is_asked(wanted: float) -> None:
    """1,200 steps; the standard error of the AUC is at most 0.015, so it misses by 0.06 once in 10,000 runs."""
    rng, reward = random.Random(5), noisy_checker(wanted)
    rewards, is_good = [], []
    for number in range(1200):
        task = list(TASKS.values())[number % 3]
        problem, solution = task.example(rng, task.default_complexity)
        step = steps_of(solution)[0]
        text = step if number % 2 else step[:-1] + "?"
        rewards.append(await reward(candidate(problem, text)))
        is_good.append(bool(number % 2))
    assert auc(rewards, is_good) == pytest.approx(wanted, abs=0.06)
    assert all(0 < value < 1 for value in rewards)


async def test_equal_texts_have_equal_rewards_and_other_seeds_other_ones() -> None:
    problem, solution = TASKS["countdown"].example(random.Random(1), 3)
    text = steps_of(solution)[0]
    first = await noisy_checker(0.8)(candidate(problem, text))
    assert await noisy_checker(0.8)(candidate(problem, text)) == first
    assert await noisy_checker(0.8, seed=1)(candidate(problem, text)) != first


async def test_problems_of_others_and_impossible_qualities_are_refused() -> None:
    with pytest.raises(ValueError, match="lab"):
        await noisy_checker(0.8)(candidate("What is 1 + 1?", "2"))
    for value in (0.5, 1.0, 2.0):
        with pytest.raises(ValueError, match="AUC"):
            noisy_checker(value)
