"""Rewordings of solutions: exactly as right as the original, step by step, and mostly not the same text."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from orchestrator.bench.lab.symmetries import reworded
from orchestrator.bench.tasks import TASKS, steps_of

COUNT = 60


@dataclass(frozen=True)
class Case:
    problem: str
    steps: tuple[str, ...]


def cases(name: str, rng: random.Random) -> list[Case]:
    """Right solutions, and ones in which two letters or digits of a step were swapped."""
    task = TASKS[name]
    found = []
    for number in range(COUNT):
        problem, solution = task.example(rng, task.default_complexity)
        steps = steps_of(solution)
        if number % 2:
            at = rng.randrange(len(steps) - 1)
            steps[at] = steps[at][:-1] + rng.choice("abcdef" if name == "sudoku6" else "123456789")
        found.append(Case(problem, tuple(steps)))
    return found


@pytest.mark.parametrize("name", list(TASKS))
def test_every_step_stays_as_right_as_it_was(name: str) -> None:
    rng, task = random.Random(3), TASKS[name]
    num_different = 0
    for case in cases(name, rng):
        problem, steps = reworded(name, case.problem, case.steps, rng)
        for end in range(1 + len(steps)):
            assert task.can_finish(problem, steps[:end]) == task.can_finish(case.problem, case.steps[:end])
        assert task.canonical(problem) == task.canonical(case.problem)
        num_different += (problem, steps) != (case.problem, case.steps)
    assert num_different > COUNT // 2


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("steps", [(), ("",), ("what?",), ("The final answer is \\boxed{",), ("1+2", "=", "a" * 500)])
def test_steps_of_no_known_form_are_left_as_right_as_they_were(name: str, steps: tuple[str, ...]) -> None:
    rng, task = random.Random(4), TASKS[name]
    problem, _ = task.example(rng, task.default_complexity)
    for _ in range(5):
        new_problem, new_steps = reworded(name, problem, steps, rng)
        assert task.canonical(new_problem) == task.canonical(problem)
        assert len(new_steps) == len(steps)
        assert task.can_finish(new_problem, new_steps) == task.can_finish(problem, steps)
