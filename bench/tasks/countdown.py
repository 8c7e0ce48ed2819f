"""Task ``countdown``: reach a target from all of the given numbers; complexity = how many and how large they are.

Values stay whole and between 1 and 99. The answer is the whole expression, so that it can be checked by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from orchestrator.bench.tasks.arithmetic import Tree, leaves_of, parse, text_of, value_of
from orchestrator.bench.tasks.task import STEP_DELIMITER, Example, answer_in, answer_step

LEVELS = {1: (3, 9), 2: (3, 20), 3: (4, 9), 4: (4, 13), 5: (4, 20), 6: (5, 9), 7: (5, 13), 8: (5, 20)}
"""Complexity: how many numbers, and the largest of them."""

_LARGEST = 99
_SMALLEST_TARGET = 10
_PROBLEM = re.compile(r"Make (\d{1,2}) from (\d{1,2}(?: \d{1,2}){1,5})", re.ASCII)
_STEP = re.compile(r"([1-9]\d?)([-+*/])([1-9]\d?)=([1-9]\d?)", re.ASCII)


class Countdown:
    """``Make 24 from 3 8 5 1``: steps ``8-5=3``, ... and the answer ``((8-5)*...)``."""

    name = "countdown"
    complexities = tuple(LEVELS)
    default_complexity = 4

    def example(self, rng: random.Random, complexity: int) -> Example:
        """A random way down to one number makes the target, and is the solution."""
        count, largest = LEVELS[complexity]
        while True:
            numbers = [1 + int(rng.random() * largest) for _ in range(count)]
            path = _random_path(rng, list(numbers))
            if path and path[-1][3] >= _SMALLEST_TARGET:
                problem = f"Make {path[-1][3]} from {' '.join(map(str, numbers))}"
                return Example(problem, _solution(numbers, path))

    def write(self, problem: str, rng: random.Random) -> str:
        """A path found by depth-first search in random order."""
        target, numbers = _read(problem)
        path = _search(tuple(numbers), target, rng, set())
        if path is None:
            raise ValueError(f"no solution: {problem!r}")
        return _solution(numbers, path)

    def canonical(self, problem: str) -> str:
        """The target and the numbers in order."""
        target, numbers = _read(problem)
        return f"{target}:{','.join(map(str, sorted(numbers)))}"

    def is_correct(self, problem: str, answer: str) -> bool:
        """Whether the expression uses each number once and has the target's value."""
        target, numbers = _read(problem)
        try:
            tree = parse(answer)
            return sorted(leaves_of(tree)) == sorted(numbers) and value_of(tree) == target
        except (ValueError, ZeroDivisionError):
            return False

    def first_error(self, problem: str, steps: Sequence[str]) -> int | None:
        """A step must be true and use numbers that are there."""
        _, numbers = _read(problem)
        for index, step in enumerate(steps):
            answer = answer_in(step)
            if answer is not None:
                if not self.is_correct(problem, answer):
                    return index
            elif not _take(numbers, step):
                return index
        return None

    def can_finish(self, problem: str, steps: Sequence[str]) -> bool:
        """Whether the target can be made of the numbers that are left."""
        target, numbers = _read(problem)
        for step in steps:
            answer = answer_in(step)
            if answer is not None:
                return self.is_correct(problem, answer)
            if not _take(numbers, step):
                return False
        return _search(tuple(numbers), target, None, set()) is not None


_Step = tuple[int, str, int, int]


def _read(problem: str) -> tuple[int, list[int]]:
    match = _PROBLEM.fullmatch(problem)
    if match is None:
        raise ValueError(f"no problem of this task: {problem[:80]!r}")
    return int(match[1]), [int(number) for number in match[2].split()]


def _take(numbers: list[int], step: str) -> bool:
    """Does a step, in place; False if it is false or its numbers are not there."""
    match = _STEP.fullmatch(step)
    if match is None:
        return False
    left, right, result = int(match[1]), int(match[3]), int(match[4])
    if result not in (value for operator, value in _operations(left, right) if operator == match[2]):
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


def _solution(numbers: Sequence[int], path: Sequence[_Step]) -> str:
    trees: list[tuple[int, Tree]] = [(number, number) for number in numbers]
    steps = []
    for left, operator, right, result in path:
        left_tree, right_tree = _pop(trees, left), _pop(trees, right)
        trees.append((result, (operator, left_tree, right_tree)))
        steps.append(f"{left}{operator}{right}={result}")
    return STEP_DELIMITER.join([*steps, answer_step(text_of(trees[-1][1]))])


def _pop(trees: list[tuple[int, Tree]], value: int) -> Tree:
    """The latest tree of this value: results before given numbers."""
    index = max(index for index, (number, _) in enumerate(trees) if number == value)
    return trees.pop(index)[1]
