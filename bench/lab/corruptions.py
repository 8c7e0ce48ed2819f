"""Right solutions with one slip, written without a model: what a reward model learns to look for, in any amount.

Sampled solutions alone teach it how unsure the writer is, more than whether a step is true: slips in them are rare, and
mostly in hard places.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from orchestrator.bench.lab.labels import COMPLEXITIES, Labelled, num_good_of
from orchestrator.bench.tasks import TASKS, Split, draw, steps_of
from orchestrator.bench.tasks.task import ANSWER_CUE

_ALPHABETS = ("0123456789", "ABCDEF", "abcdef", "+-*")
_RIGHT_SHARE = 0.2
_CUT_SHARE = 0.6
"""Of the solutions with a slip, those that end with it."""
_AGAIN_SHARE = 0.15
"""Of the slips that are not in the first step, those that repeat an earlier one."""


def slipped(rng: random.Random, split: Split = "train") -> Labelled:
    """A solution of a random problem; mostly with a slip in a random step, and labelled by the checkers."""
    task = TASKS[rng.choice(tuple(TASKS))]
    complexity = rng.choice(COMPLEXITIES[task.name])
    problem, solution = draw(task, rng, complexity, split)
    steps = steps_of(solution)
    if rng.random() > _RIGHT_SHARE:
        at = rng.randrange(len(steps))
        steps[at] = _with_a_slip(steps, at, rng)
        if rng.random() < _CUT_SHARE:
            del steps[at + 1 :]
    return Labelled(task.name, complexity, problem, tuple(steps), num_good_of(task, problem, steps))


def _with_a_slip(steps: Sequence[str], at: int, rng: random.Random) -> str:
    """A step with one character replaced by another of its kind, or an earlier step said again."""
    step = steps[at]
    if at and rng.random() < _AGAIN_SHARE:
        return steps[rng.randrange(at)]
    start = len(ANSWER_CUE) if step.startswith(ANSWER_CUE) else 0
    places = [place for place in range(start, len(step)) if any(step[place] in kind for kind in _ALPHABETS)]
    place = rng.choice(places)
    kind = next(kind for kind in _ALPHABETS if step[place] in kind)
    other = rng.choice([character for character in kind if character != step[place]])
    return step[:place] + other + step[place + 1 :]
