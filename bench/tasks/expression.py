"""Task ``expression``: evaluate a nested expression modulo 61, one operation per step; complexity = operations.

Most operations have a number on one side, so that few results wait at a time (`_CHAIN_SHARE`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from orchestrator.bench.tasks.arithmetic import Tree, parse, text_of
from orchestrator.bench.tasks.task import STEP_DELIMITER, Example, answer_in, answer_step

MODULUS = 61
_OPERATORS = "+-*"
_HEAD = f"Evaluate mod {MODULUS}: "
_CHAIN_SHARE = 0.6
"""Of the operations with more below them, those that have all of it on one side."""
_STEP = re.compile(r"(\d{1,2})([-+*])(\d{1,2})=(\d{1,2})", re.ASCII)


class Expression:
    """``Evaluate mod 61: (3*(4+17))-5``: steps ``4+17=21``, ``3*21=2``, ``2-5=58``."""

    name = "expression"
    complexities = (1, 2, 3, 4, 5, 6, 8, 10, 12)
    default_complexity = 10

    def example(self, rng: random.Random, complexity: int) -> Example:
        """Operators, numbers and shape at random; solved left to right, innermost first."""
        tree = _random_tree(rng, complexity)
        return Example(f"{_HEAD}{text_of(tree)}", _solution(tree))

    def write(self, problem: str, rng: random.Random) -> str:  # noqa: ARG002  # there is one order only
        """The operations left to right, innermost first."""
        return _solution(_tree_of(problem))

    def canonical(self, problem: str) -> str:
        """Operands of ``+`` and ``*`` in sorted order."""
        return _canonical(_tree_of(problem))

    def is_correct(self, problem: str, answer: str) -> bool:
        """Whether it is the value in [0, 61)."""
        return answer == str(_value(_tree_of(problem)))

    def first_error(self, problem: str, steps: Sequence[str]) -> int | None:
        """Operations may come in any order in which their operands are known."""
        tree = _tree_of(problem)
        for index, step in enumerate(steps):
            answer = answer_in(step)
            if answer is not None:
                if isinstance(tree, int) and answer == str(tree % MODULUS):
                    continue
                return index
            match = _STEP.fullmatch(step)
            if match is None:
                return index
            left, operator, right, result = match.groups()
            if _spelled(result) != _apply(operator, int(left), int(right)) or len(left + right) != len(
                f"{int(left)}{int(right)}"
            ):
                return index
            reduced = _reduced(tree, (operator, int(left), int(right)))
            if reduced is None:
                return index
            tree = reduced
        return None

    def is_step(self, text: str) -> bool:
        """``4+17=21``."""
        return _STEP.fullmatch(text) is not None

    def can_finish(self, problem: str, steps: Sequence[str]) -> bool:
        """Nothing true leads astray here."""
        return self.first_error(problem, steps) is None


def _random_tree(rng: random.Random, operations: int) -> Tree:
    if operations == 0:
        return int(rng.random() * MODULUS)
    rest = operations - 1
    left = rest * int(rng.random() * 2) if rng.random() < _CHAIN_SHARE else int(rng.random() * operations)
    return (
        _OPERATORS[int(rng.random() * 3)],
        _random_tree(rng, left),
        _random_tree(rng, rest - left),
    )


def _tree_of(problem: str) -> Tree:
    if not problem.startswith(_HEAD):
        raise ValueError(f"no problem of this task: {problem[:80]!r}")
    return parse(problem[len(_HEAD) :])


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "+":
        return (left + right) % MODULUS
    return (left - right if operator == "-" else left * right) % MODULUS


def _value(tree: Tree) -> int:
    return tree % MODULUS if isinstance(tree, int) else _apply(tree[0], _value(tree[1]), _value(tree[2]))


def _solution(tree: Tree) -> str:
    steps: list[str] = []

    def visit(node: Tree) -> int:
        if isinstance(node, int):
            return node
        left, right = visit(node[1]), visit(node[2])
        result = _apply(node[0], left, right)
        steps.append(f"{left}{node[0]}{right}={result}")
        return result

    value = visit(tree)
    return STEP_DELIMITER.join([*steps, answer_step(value % MODULUS)])


def _spelled(number: str) -> int:
    """The number, or one that is never right if it has a leading zero."""
    value = int(number)
    return value if str(value) == number else -1


def _reduced(tree: Tree, step: tuple[str, int, int]) -> Tree | None:
    """The tree with its leftmost such operation done; None if it has none whose operands are these numbers."""
    if isinstance(tree, int):
        return None
    operator, left, right = tree
    if isinstance(left, int) and isinstance(right, int):
        is_swapped = operator != "-" and step == (operator, right, left)
        return _apply(operator, left, right) if step == tree or is_swapped else None
    if (reduced := _reduced(left, step)) is not None:
        return (operator, reduced, right)
    if (reduced := _reduced(right, step)) is not None:
        return (operator, left, reduced)
    return None


def _canonical(tree: Tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    operands = [_canonical(tree[1]), _canonical(tree[2])]
    if tree[0] != "-":
        operands.sort()
    return f"({operands[0]}{tree[0]}{operands[1]})"
