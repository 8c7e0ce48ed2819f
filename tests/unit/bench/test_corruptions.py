"""Solutions with a slip: what is good in them is right, what is not has a slip, and every task is among them."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch")

from orchestrator.bench.lab.corruptions import slipped  # noqa: E402
from orchestrator.bench.tasks import TASKS, split_of  # noqa: E402

ITEMS = [slipped(random.Random(seed)) for seed in range(150)]


def test_labels_are_what_the_checkers_say() -> None:
    for item in ITEMS:
        task = TASKS[item.task]
        for end in range(1 + len(item.steps)):
            assert task.can_finish(item.problem, item.steps[:end]) == (end <= item.num_good)


def test_most_have_a_slip_and_some_have_none_in_every_task() -> None:
    for name in TASKS:
        good = [item.num_good == len(item.steps) for item in ITEMS if item.task == name]
        assert 0.05 < sum(good) / len(good) < 0.5


def test_problems_are_of_the_split_that_was_asked_for() -> None:
    for item in (slipped(random.Random(seed), "dev") for seed in range(20)):
        assert split_of(TASKS[item.task], item.problem) == "dev"
