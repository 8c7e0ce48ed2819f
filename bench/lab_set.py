"""The lab's tasks as sets of problems, drawn fresh with a seed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from orchestrator.bench.problems import Problem
from orchestrator.bench.tasks import TASKS, Split, Task, draw_distinct, steps_of
from orchestrator.bench.tasks.task import answer_in
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest, UnknownName

DEFAULT_COUNT = 100
_MAX_SAMPLE_TOKENS = 128
"""The length of a row of training data, which holds a problem and its solution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSet:
    """Problems of one task at one complexity; a `ProblemSet`.

    Models see the bare problem, which is what the lab's were trained on. An id is a digest of the problem's text, so it
    means the same problem whatever the seed.
    """

    task: Task
    complexity: int
    problems: tuple[Problem, ...]
    answer_kind: str = "exact"
    max_sample_tokens: int = _MAX_SAMPLE_TOKENS

    @property
    def name(self) -> str:
        """For instance ``expression@6``."""
        return f"{self.task.name}@{self.complexity}"

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether the task's checker accepts the answer."""
        return answer is not None and self.task.is_correct(problem.text, answer)


def lab_checker(name: str) -> LabSet | None:
    """A set without problems that checks the answers of one named ``expression@6``, say; None for other names."""
    task_name, sign, complexity = name.partition("@")
    task = TASKS.get(task_name)
    if task is None or not sign or not complexity.isdecimal():
        return None
    return LabSet(task=task, complexity=int(complexity), problems=())


def open_lab_set(
    task_name: str, complexity: int | None = None, *, count: int | None = None, seed: int = 0, split: Split = "test"
) -> LabSet:
    """Different problems of one split; a larger count with the same seed adds to a smaller one's.

    Args:
        task_name: One of `TASKS`.
        complexity: The task's default for None.
        count: How many; 100 for None.
        seed: Of the draw.
        split: Of the problems.

    Raises:
        UnknownName: There is no such task.
        InvalidRequest: It has no such complexity, or fewer than ``count`` such problems.
    """
    task = TASKS.get(task_name)
    if task is None:
        raise UnknownName(kind="task", name=task_name, known=TASKS)
    complexity = task.default_complexity if complexity is None else complexity
    if complexity not in task.complexities:
        known = ", ".join(map(str, task.complexities))
        raise InvalidRequest(
            f"{task_name} has no complexity {complexity}; choose one of {known}", field="complexity", value=complexity
        )
    count = DEFAULT_COUNT if count is None else count
    if count < 1:
        raise InvalidRequest(f"count={count} should be at least 1", field="count", value=count)
    texts = draw_distinct(task, random.Random(f"{seed}/{task_name}/{complexity}/{split}"), complexity, split, count)
    if len(texts) < count:
        raise InvalidRequest(
            f"count={count}: {task_name}@{complexity} has only about {len(texts)} different problems in its {split} "
            "split; ask for fewer, or for a higher complexity",
            field="count",
            value=count,
        )
    return LabSet(task=task, complexity=complexity, problems=tuple(_problem(task, text) for text in texts))


def _problem(task: Task, text: str) -> Problem:
    id_ = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    solution = steps_of(task.write(text, random.Random(id_)))
    return Problem(id_, text, (Message("user", text),), answer_in(solution[-1]))
