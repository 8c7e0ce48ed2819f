"""Labels for single steps by Monte-Carlo rollouts: "+" if a stronger model still reaches a right answer from there.

After Math-Shepherd (Wang et al., 2024), hard labels. A false step is not undone later, so labels of one solution are a
run of "+" and then a run of "-"; the border is found by bisection (as in OmegaPRM, Luo et al., 2024), and solutions
that end well need no rollout at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.bench.lab.generation import sample
from orchestrator.bench.lab.model import Llama
from orchestrator.bench.lab.tokenizer import decode, encode, prompt_ids
from orchestrator.bench.tasks import TASKS, Split, Task, draw, is_solved, steps_of
from orchestrator.bench.tasks.task import STEP_DELIMITER

_ROLLOUT_TEMPERATURE = 0.7
"""Rollouts are to show what is possible, not how often."""


_COMPLEXITIES = {
    "expression": (4, 6, 8, 10, 10, 10, 12),
    "countdown": (2, 3, 3, 3, 3, 4),
    "sudoku6": (4, 6, 7, 7, 7, 8, 10),
}
"""What problems are drawn from: most are about as hard as the defaults."""
_SHARES = {"expression": 2, "countdown": 1, "sudoku6": 1}
"""Of solutions; a slip among 61 numbers takes longest to be seen."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sampled solution.

    Attributes:
        task, complexity, problem: What it is of.
        steps: Its steps.
        num_good: So many steps from the first on are "+".
    """

    task: str
    complexity: int
    problem: str
    steps: tuple[str, ...]
    num_good: int


def labelled(
    writer: Llama, roller: Llama | None, *, count: int, split: Split, num_rollouts: int, seed: int
) -> list[Labelled]:
    """Solutions by ``writer`` at temperature 1 of random problems, labelled by ``roller``.

    Without a roller the tasks' checkers say from which steps a right answer can still be reached: what rollouts
    estimate, a good deal faster.
    """
    rng = random.Random(f"labels/{seed}")
    cases = []
    for _ in range(count):
        task = TASKS[rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]]
        complexity = rng.choice(_COMPLEXITIES[task.name])
        cases.append((task, complexity, draw(task, rng, complexity, split).problem))
    texts = sample(writer, [prompt_ids(problem) for _, _, problem in cases], seed=seed)
    solutions = [steps_of(decode(text)) for text in texts]
    tasks, problems = [task for task, _, _ in cases], [problem for _, _, problem in cases]
    if roller is None:
        ends = [_checked(*case) for case in zip(tasks, problems, solutions, strict=True)]
    else:
        ends = borders(problems, tasks, solutions, roller, num_rollouts=num_rollouts, seed=seed)
    return [
        Labelled(task.name, complexity, problem, tuple(steps), num_good)
        for (task, complexity, problem), steps, num_good in zip(cases, solutions, ends, strict=True)
    ]


def _checked(task: Task, problem: str, steps: Sequence[str]) -> int:
    good = (task.can_finish(problem, steps[: end + 1]) for end in range(len(steps)))
    return next((end for end, is_good in enumerate(good) if not is_good), len(steps))


def borders(
    problems: Sequence[str],
    tasks: Sequence[Task],
    solutions: Sequence[Sequence[str]],
    roller: Llama,
    *,
    num_rollouts: int,
    seed: int,
) -> list[int]:
    """How many steps of each solution are good: from the last of them a rollout still reaches a right answer."""
    is_right = [
        is_solved(task, problem, STEP_DELIMITER.join(steps))
        for task, problem, steps in zip(tasks, problems, solutions, strict=True)
    ]
    # The border lies in [low, high]: `low` steps are known good, more than `high` known bad.
    bounds = [
        [len(steps), len(steps)] if right else [0, len(steps) - 1]
        for steps, right in zip(solutions, is_right, strict=True)
    ]
    wave = 0
    while open_cases := [index for index, (low, high) in enumerate(bounds) if low < high]:
        wave += 1
        middles = {index: (bounds[index][0] + bounds[index][1] + 1) // 2 for index in open_cases}
        prompts = [_prefix(problems[index], solutions[index][: middles[index]]) for index in open_cases]
        tails = sample(
            roller,
            [prompt for prompt in prompts for _ in range(num_rollouts)],
            temperature=_ROLLOUT_TEMPERATURE,
            seed=seed * 100 + wave,
        )
        for number, index in enumerate(open_cases):
            begun = STEP_DELIMITER.join([*solutions[index][: middles[index]], ""])
            own = tails[number * num_rollouts : (number + 1) * num_rollouts]
            if any(is_solved(tasks[index], problems[index], begun + decode(tail)) for tail in own):
                bounds[index][0] = middles[index]
            else:
                bounds[index][1] = middles[index] - 1
    return [low for low, _ in bounds]


def _prefix(problem: str, steps: Sequence[str]) -> bytes:
    return prompt_ids(problem) + encode(STEP_DELIMITER.join([*steps, ""]))
