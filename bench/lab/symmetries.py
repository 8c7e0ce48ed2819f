"""Other wordings of a sampled solution: what a task's symmetries leave just as right or wrong, step by step.

They multiply labels for nothing: a sudoku alone has 720 x 48 x 72 of them. All keep `Task.canonical`, so that a problem
stays in its split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from orchestrator.bench.tasks import countdown, expression, sudoku6
from orchestrator.bench.tasks.arithmetic import Tree, parse, text_of
from orchestrator.bench.tasks.task import answer_in, answer_step

Solution = tuple[str, tuple[str, ...]]
"""A problem and steps of a solution."""

_OPERATION = re.compile(r"(\d+)([-+*/])(\d+)(=\d+)?", re.ASCII)


def reworded(task: str, problem: str, steps: Sequence[str], rng: random.Random) -> Solution:
    """A random one of them; a solution of unusual form comes back as it is."""
    return _REWORDINGS[task](problem, tuple(steps), rng)


def _sudoku6(problem: str, steps: tuple[str, ...], rng: random.Random) -> Solution:
    """Letters renamed; rows and columns moved as the boxes allow."""
    size, names = sudoku6.SIZE, sudoku6.NAMES
    letters = dict(zip(sudoku6.LETTERS, rng.sample(sudoku6.LETTERS, size), strict=True))
    rows, columns = rng.choice(sudoku6.ROW_ORDERS), rng.choice(sudoku6.COLUMN_ORDERS)
    old_names = [names[row * size + column] for row in rows for column in columns]
    moved = dict(zip(old_names, names, strict=True))
    blanks_text, _, given_text = problem.removeprefix("Fill ").partition(" in ")
    blanks = [blanks_text[at : at + 2] for at in range(0, len(blanks_text), 2)]
    given = {moved[given_text[at : at + 2]]: letters[given_text[at + 2]] for at in range(0, len(given_text), 3)}
    new_blanks = sorted(map(moved.__getitem__, blanks))
    new_steps: list[str] = []
    for step in steps:
        answer = answer_in(step)
        if answer is not None and len(answer) == len(blanks) and set(answer) <= set(letters):
            filled = {moved[cell]: letters[letter] for cell, letter in zip(blanks, answer, strict=True)}
            new_steps.append(answer_step("".join(map(filled.__getitem__, new_blanks))))
        elif step[:2] in moved and step[2:] in letters:
            new_steps.append(moved[step[:2]] + letters[step[2:]])
        else:
            return problem, steps
    clues = "".join(name + given[name] for name in names if name in given)
    return f"Fill {''.join(new_blanks)} in {clues}", tuple(new_steps)


def _countdown(problem: str, steps: tuple[str, ...], rng: random.Random) -> Solution:
    """Numbers in another order; sums and products written the other way round, in the answer as in their step."""
    head, _, numbers = problem.partition(" from ")
    swaps = [rng.random() < 0.5 for _ in steps]
    new_steps: list[str] = []
    for step, is_swapped in zip(steps, swaps, strict=True):
        answer = answer_in(step)
        if answer is None:
            new_steps.append(_swapped(step) if is_swapped else step)
        else:
            parts = answer.split(",")
            if len(parts) >= len(steps):
                return problem, steps
            new_steps.append(answer_step(",".join(_swapped(p) if s else p for p, s in zip(parts, swaps, strict=False))))
    order = numbers.split(" ")
    rng.shuffle(order)
    return f"{head} from {' '.join(order)}", tuple(new_steps)


def _expression(problem: str, steps: tuple[str, ...], rng: random.Random) -> Solution:
    """Sums and products the other way round, where that leaves the order of the steps as it is."""
    new_steps = list(steps)
    num_seen = 0

    def visit(tree: Tree) -> Tree:
        nonlocal num_seen
        if isinstance(tree, int):
            return tree
        operator, left, right = tree[0], visit(tree[1]), visit(tree[2])
        at, num_seen = num_seen, num_seen + 1
        is_order_kept = isinstance(left, int) or isinstance(right, int)
        if operator == "-" or not is_order_kept or rng.random() < 0.5:
            return operator, left, right
        if at < len(steps):
            new_steps[at] = _swapped(steps[at])
        return operator, right, left

    tree = visit(parse(problem.removeprefix(expression.HEAD)))
    return f"{expression.HEAD}{text_of(tree)}", tuple(new_steps)


def _swapped(operation: str) -> str:
    """``3+4=7`` as ``4+3=7``; differences and quotients, and what is no operation, as they are."""
    match = _OPERATION.fullmatch(operation)
    if match is None or match[2] in "-/":
        return operation
    return f"{match[3]}{match[2]}{match[1]}{match[4] or ''}"


_REWORDINGS: dict[str, Callable[[str, tuple[str, ...], random.Random], Solution]] = {
    countdown.Countdown.name: _countdown,
    expression.Expression.name: _expression,
    sudoku6.Sudoku6.name: _sudoku6,
}
