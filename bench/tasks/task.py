"""What a task is: problems with a complexity dial, written solutions, exact checks of answers and of single steps.

A solution is steps separated by blank lines; its last step states the answer in a box. Everything here is pure and
imports the standard library only, so that it also runs where this package is not installed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

STEP_DELIMITER = "\n\n"
ANSWER_CUE = "The final answer is \\boxed{"
"""What the default answer reader cues with, so that a chain cut off can be concluded in the form it was trained on."""

Split = Literal["train", "dev", "test"]
_NUM_SHARES = 16  # one for dev, one for test
_MAX_DRAWS = 1000  # a share that has one problem in a hundred draws is missed once in 20,000 times
_MAX_DRAWS_IN_VAIN = 500  # one after the other; a split of which one problem in a hundred is left has run dry


class Example(NamedTuple):
    """A problem and a right solution of it."""

    problem: str
    solution: str


class Task(Protocol):
    """A family of problems; all methods are deterministic functions of their arguments."""

    @property
    def name(self) -> str:
        """As in suites and reports."""
        ...

    @property
    def complexities(self) -> tuple[int, ...]:
        """The settings of the dial, easiest first."""
        ...

    @property
    def default_complexity(self) -> int:
        """Fixed on dev problems before any search policy was run on them."""
        ...

    def example(self, rng: random.Random, complexity: int) -> Example:
        """A random problem of ``complexity`` with a random right solution."""
        ...

    def write(self, problem: str, rng: random.Random) -> str:
        """A right solution of any problem of this task.

        Raises:
            ValueError: The text is no problem of this task, or has no solution.
        """
        ...

    def canonical(self, problem: str) -> str:
        """A text that problems share which are the same but for how they are written."""
        ...

    def is_correct(self, problem: str, answer: str) -> bool:
        """Whether ``answer``, as found in the box, is right."""
        ...

    def first_error(self, problem: str, steps: Sequence[str]) -> int | None:
        """Index of the first false step; None if all are true. A true step may still lead nowhere."""
        ...

    def is_step(self, text: str) -> bool:
        """Whether it has the form of a step, true or not; an answer step has not."""
        ...

    def can_finish(self, problem: str, steps: Sequence[str]) -> bool:
        """Whether true steps can still lead from here to a right answer; what process rewards estimate."""
        ...


def split_of(task: Task, problem: str) -> Split:
    """Where a problem belongs; equal canonical texts always belong together."""
    digest = hashlib.blake2b(f"{task.name}\n{task.canonical(problem)}".encode(), digest_size=4).digest()
    share = int.from_bytes(digest, "big") % _NUM_SHARES
    return "dev" if share == 0 else "test" if share == 1 else "train"


def draw(task: Task, rng: random.Random, complexity: int, split: Split) -> Example:
    """A random example of one split.

    Raises:
        ValueError: The split seems to have none: easy puzzles may be too few for all three splits.
    """
    for _ in range(_MAX_DRAWS):
        example = task.example(rng, complexity)
        if split_of(task, example.problem) == split:
            return example
    raise ValueError(f"no {split} problem of {task.name}@{complexity} in {_MAX_DRAWS} draws")


def draw_distinct(task: Task, rng: random.Random, complexity: int, split: Split, count: int) -> list[str]:
    """Problems no two of which have the same canonical text; fewer than ``count`` where the split runs dry."""
    problems: dict[str, str] = {}
    num_in_vain = 0
    while len(problems) < count and num_in_vain < _MAX_DRAWS_IN_VAIN:
        try:
            problem = draw(task, rng, complexity, split).problem
        except ValueError:
            break
        canonical = task.canonical(problem)
        num_in_vain = num_in_vain + 1 if canonical in problems else 0
        problems.setdefault(canonical, problem)
    return list(problems.values())


def steps_of(solution: str) -> list[str]:
    """The steps of a solution that may break off; empty ones count, a delimiter at the very end begins none."""
    steps = solution.split(STEP_DELIMITER)
    return steps[:-1] if len(steps) > 1 and not steps[-1] else steps


def answer_step(answer: object) -> str:
    """The last step of a solution."""
    return f"{ANSWER_CUE}{answer}}}"


def answer_in(step: str) -> str | None:
    """The answer a step states; None if it is no answer step."""
    if step.startswith(ANSWER_CUE) and step.endswith("}"):
        return step[len(ANSWER_CUE) : -1]
    return None


def is_solved(task: Task, problem: str, solution: str) -> bool:
    """Whether a solution ends with a right answer, whatever comes before it."""
    answer = answer_in(solution.rsplit(STEP_DELIMITER, 1)[-1])
    return answer is not None and task.is_correct(problem, answer)
