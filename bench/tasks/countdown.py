"""Task ``countdown``: reach a target from all of the given numbers; complexity = how many and how large they are.

Values stay whole and between 1 and 99. The answer repeats the operations, so that it can be checked by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from orchestrator.bench.tasks.task import STEP_DELIMITER, Example, answer_in, answer_step

LEVELS = {1: (2, 20), 2: (3, 9), 3: (3, 15), 4: (4, 9), 5: (4, 13), 6: (4, 20)}
"""Complexity: how many numbers, and the largest of them."""

_LARGEST = 99
_SMALLEST_TARGET = 10
_PROBLEM = re.compile(r"Make (\d{1,2}) from (\d{1,2}(?: \d{1,2}){1,5})", re.ASCII)
_OPERATION = re.compile(r"([1-9]\d?)([-+*/])([1-9]\d?)(?:=([1-9]\d?))?", re.ASCII)


class Countdown:
    """``Make 24 from 3 8 5 1``: steps ``3*8=24``, ... and the answer ``3*8,5-1,...``."""

    name = "countdown"
    complexities = tuple(LEVELS)
    default_complexity = 3

    def example(self, rng: random.Random, complexity: int) -> Example:
        """A random way down to one number makes the target, and is the solution."""
        count, largest = LEVELS[complexity]
        while True:
            numbers = [1 + int(rng.random() * largest) for _ in range(count)]
            path = _random_path(rng, list(numbers))
            if path and path[-1][3] >= _SMALLEST_TARGET:
                problem = f"Make {path[-1][3]} from {' '.join(map(str, numbers))}"
                return Example(problem, _solution(path))

    def write(self, problem: str, rng: random.Random) -> str:
        """A path found by depth-first search in random order."""
        target, numbers = _read(problem)
        path = _search(tuple(numbers), target, rng, set())
        if path is None:
            raise ValueError(f"no solution: {problem!r}")
        return _solution(path)

    def canonical(self, problem: str) -> str:
        """The target and the numbers in order."""
        target, numbers = _read(problem)
        return f"{target}:{','.join(map(str, sorted(numbers)))}"

    def is_correct(self, problem: str, answer: str) -> bool:
        """Whether the operations can be done one after the other and leave the target only."""
        target, numbers = _read(problem)
        return all(_take(numbers, operation) for operation in answer.split(",")) and numbers == [target]

    def first_error(self, problem: str, steps: Sequence[str]) -> int | None:
        """A step must be true and use numbers that are there."""
        _, numbers = _read(problem)
        for index, step in enumerate(steps):
            answer = answer_in(step)
            if answer is not None:
                if not self.is_correct(problem, answer):
                    return index
            elif "=" not in step or not _take(numbers, step):
                return index
        return None

    def is_step(self, text: str) -> bool:
        """``8-5=3``."""
        return "=" in text and _OPERATION.fullmatch(text) is not None

    def can_finish(self, problem: str, steps: Sequence[str]) -> bool:
        """Whether the target can be made of the numbers that are left."""
        target, numbers = _read(problem)
        for step in steps:
            answer = answer_in(step)
            if answer is not None:
                return self.is_correct(problem, answer)
            if "=" not in step or not _take(numbers, step):
                return False
        return _search(tuple(numbers), target, None, set()) is not None


_Step = tuple[int, str, int, int]


def _read(problem: str) -> tuple[int, list[int]]:
    match = _PROBLEM.fullmatch(problem)
    if match is None:
        raise ValueError(f"no problem of this task: {problem[:80]!r}")
    return int(match[1]), [int(number) for number in match[2].split()]


def _take(numbers: list[int], text: str) -> bool:
    """Does an operation, in place; False if it states a wrong result or its numbers are not there."""
    match = _OPERATION.fullmatch(text)
    if match is None:
        return False
    left, right = int(match[1]), int(match[3])
    result = dict(_operations(left, right)).get(match[2])
    if result is None or match[4] not in {None, str(result)}:
        return False
    for operand in (left, right):
        if operand not in numbers:
            return False
        numbers.remove(operand)
    numbers.append(result)
    return True


def _operations(left: int, right: int) -> Iterator[tuple[str, int]]:
    """The operations on two numbers in this order whose values stay in range."""
    if left + right <= _LARGEST:
        yield "+", left + right
    if left > right:
        yield "-", left - right
    if left * right <= _LARGEST:
        yield "*", left * right
    if left % right == 0:
        yield "/", left // right


def _random_path(rng: random.Random, numbers: list[int]) -> list[_Step]:
    """A random way to one number; empty if it gets stuck."""
    path: list[_Step] = []
    while len(numbers) > 1:
        left = numbers.pop(int(rng.random() * len(numbers)))
        right = numbers.pop(int(rng.random() * len(numbers)))
        choices = [choice for choice in _operations(left, right) if choice[0] != "/" or right > 1]
        if not choices:
            return []
        operator, result = choices[int(rng.random() * len(choices))]
        path.append((left, operator, right, result))
        numbers.append(result)
    return path


def _search(
    numbers: tuple[int, ...], target: int, rng: random.Random | None, dead: set[tuple[int, ...]]
) -> list[_Step] | None:
    if len(numbers) == 1:
        return [] if numbers[0] == target else None
    key = tuple(sorted(numbers))
    if key in dead:
        return None
    moves = [
        (i, j, operator, result)
        for i in range(len(numbers))
        for j in range(len(numbers))
        if i != j
        for operator, result in _operations(numbers[i], numbers[j])
    ]
    if rng is not None:
        rng.shuffle(moves)
    for i, j, operator, result in moves:
        rest = (*(number for k, number in enumerate(numbers) if k not in (i, j)), result)
        path = _search(rest, target, rng, dead)
        if path is not None:
            return [(numbers[i], operator, numbers[j], result), *path]
    dead.add(key)
    return None


def _solution(path: Sequence[_Step]) -> str:
    steps = [f"{left}{operator}{right}={result}" for left, operator, right, result in path]
    return STEP_DELIMITER.join([*steps, answer_step(",".join(step.partition("=")[0] for step in steps))])
