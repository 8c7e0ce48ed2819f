"""Task ``sudoku6``: 6x6 grids with boxes of two rows and three columns; complexity = blanks.

Every puzzle can be solved by naked singles alone, hence has one solution. A step fills one cell; the answer is what
fills the blanks in reading order. Cells are named as on a chessboard, ``A1`` to ``F6``, and hold letters, ``a`` to
``f``: a number of two digits is one token of the lab's vocabulary, and a grid of digits would be torn apart by that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from orchestrator.bench.tasks.task import STEP_DELIMITER, Example, answer_in, answer_step

SIZE = 6
_NUM_CELLS = SIZE * SIZE
_ALL = (1 << SIZE) - 1
_LETTERS = "abcdef"
_PROBLEM = re.compile(r"Fill ((?:[A-F][1-6])+) in ((?:[A-F][1-6][a-f])+)", re.ASCII)
_STEP = re.compile(r"([A-F][1-6])([a-f])", re.ASCII)
_NAMES = [f"{'ABCDEF'[cell // SIZE]}{cell % SIZE + 1}" for cell in range(_NUM_CELLS)]


def _box(cell: int) -> int:
    return cell // SIZE // 2 * 2 + cell % SIZE // 3


_PEERS = [
    [
        other
        for other in range(_NUM_CELLS)
        if other != cell and (other // SIZE == cell // SIZE or other % SIZE == cell % SIZE or _box(other) == _box(cell))
    ]
    for cell in range(_NUM_CELLS)
]
_CELLS = {name: cell for cell, name in enumerate(_NAMES)}
_LETTER_OF = {1 << digit: letter for digit, letter in enumerate(_LETTERS)}
_ROW_ORDERS = [
    [2 * band + row for band in bands for row in ((1, 0) if flips >> band & 1 else (0, 1))]
    for bands in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for flips in range(8)
]
_TRIPLES = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_COLUMN_ORDERS = [
    [3 * stack + column for stack in stacks for column in (first if stack == 0 else second)]
    for stacks in ((0, 1), (1, 0))
    for first in _TRIPLES
    for second in _TRIPLES
]


class Sudoku6:
    """``Fill B3F1 in A1cA2a...``: steps such as ``B3e``, in any order; the answer is ``ed``."""

    name = "sudoku6"
    complexities = (4, 5, 6, 7, 8, 10, 12, 14, 16)
    default_complexity = 7

    def example(self, rng: random.Random, complexity: int) -> Example:
        """A random grid with cells taken out one by one, each a naked single at that moment."""
        while True:
            grid = _random_grid(rng)
            masks = [1 << digit for digit in grid]
            if _dig(rng, masks, complexity):
                blanks = "".join(name for name, mask in zip(_NAMES, masks, strict=True) if not mask)
                given = "".join(f"{name}{_LETTER_OF[mask]}" for name, mask in zip(_NAMES, masks, strict=True) if mask)
                return Example(f"Fill {blanks} in {given}", _solution(masks, rng))

    def write(self, problem: str, rng: random.Random) -> str:
        """Naked singles in random order."""
        return _solution(_read(problem), rng)

    def canonical(self, problem: str) -> str:
        """What no swap of digits, of rows and bands, or of columns and stacks changes: where how many are given.

        Different puzzles may share it. That is no loss for splits, which only must not part the same puzzle.
        """
        masks = _read(problem)
        given = [1 if mask else 0 for mask in masks]
        counts = sorted(masks.count(1 << digit) for digit in range(SIZE))
        rows = [sum(given[row * SIZE : row * SIZE + SIZE]) for row in range(SIZE)]
        columns = [sum(given[column::SIZE]) for column in range(SIZE)]
        bands = sorted(sorted(rows[start : start + 2]) for start in (0, 2, 4))
        stacks = sorted(sorted(columns[start : start + 3]) for start in (0, 3))
        pairs = sorted(
            (counts_of, rows[cell // SIZE], columns[cell % SIZE])
            for cell, mask in enumerate(masks)
            if mask
            for counts_of in (masks.count(mask),)
        )
        return f"{counts}{bands}{stacks}{pairs}"

    def is_correct(self, problem: str, answer: str) -> bool:
        """Whether these are the letters of the blanks in reading order."""
        return answer == _answer_of(problem)

    def first_error(self, problem: str, steps: Sequence[str]) -> int | None:
        """A step must fill a blank that is still one with its letter in the solution."""
        solved = _solved(problem)
        blanks = {_NAMES[cell]: solved[cell] for cell, mask in enumerate(_read(problem)) if not mask}
        for index, step in enumerate(steps):
            answer = answer_in(step)
            if answer is not None:
                if blanks or answer != _answer_of(problem):
                    return index
                continue
            match = _STEP.fullmatch(step)
            if match is None or blanks.pop(match[1], None) != match[2]:
                return index
        return None

    def is_step(self, text: str) -> bool:
        """``B3e``."""
        return _STEP.fullmatch(text) is not None

    def can_finish(self, problem: str, steps: Sequence[str]) -> bool:
        """Nothing true leads astray here."""
        return self.first_error(problem, steps) is None


def _read(problem: str) -> list[int]:
    """One mask per cell: the bit of its digit, or 0."""
    match = _PROBLEM.fullmatch(problem)
    if match is None:
        raise ValueError(f"no problem of this task: {problem[:80]!r}")
    masks = [0] * _NUM_CELLS
    named = [match[1][start : start + 2] for start in range(0, len(match[1]), 2)]
    for start in range(0, len(match[2]), 3):
        name, letter = match[2][start : start + 2], match[2][start + 2]
        masks[_CELLS[name]] = 1 << _LETTERS.index(letter)
        named.append(name)
    if sorted(named) != _NAMES:
        raise ValueError(f"not every cell is named once: {problem[:80]!r}")
    return masks


@lru_cache(maxsize=4096)
def _solved(problem: str) -> tuple[str, ...]:
    masks = _read(problem)
    for cell, mask in _singles(masks, None):
        masks[cell] = mask
    return tuple(_LETTER_OF[mask] for mask in masks)


def _answer_of(problem: str) -> str:
    solved = _solved(problem)
    return "".join(solved[cell] for cell, mask in enumerate(_read(problem)) if not mask)


def _candidates(masks: Sequence[int], cell: int) -> int:
    used = 0
    for peer in _PEERS[cell]:
        used |= masks[peer]
    return _ALL & ~used


def _singles(masks: Sequence[int], rng: random.Random | None) -> list[tuple[int, int]]:
    """The blanks with their digits in an order in which each has one candidate left.

    Raises:
        ValueError: There is no such order.
    """
    masks = list(masks)
    candidates = {cell: _candidates(masks, cell) for cell, mask in enumerate(masks) if not mask}
    order: list[tuple[int, int]] = []
    while candidates:
        ready = [cell for cell, mask in candidates.items() if mask in _LETTER_OF]
        if not ready:
            raise ValueError("naked singles do not solve this puzzle")
        cell = ready[0] if rng is None else ready[int(rng.random() * len(ready))]
        mask = candidates.pop(cell)
        order.append((cell, mask))
        for peer in _PEERS[cell]:
            if peer in candidates:
                candidates[peer] &= ~mask
    return order


def _solution(masks: Sequence[int], rng: random.Random) -> str:
    order = _singles(masks, rng)
    steps = [f"{_NAMES[cell]}{_LETTER_OF[mask]}" for cell, mask in order]
    answer = "".join(_LETTER_OF[mask] for _, mask in sorted(order))
    return STEP_DELIMITER.join([*steps, answer_step(answer)])


def _dig(rng: random.Random, masks: list[int], blanks: int) -> bool:
    """Empties that many cells, in place, each determined by the others at that moment; False if it gets stuck."""
    cells = list(range(_NUM_CELLS))
    rng.shuffle(cells)
    for cell in cells:
        if not blanks:
            break
        mask, masks[cell] = masks[cell], 0
        if _candidates(masks, cell) == mask:
            blanks -= 1
        else:
            masks[cell] = mask
    return not blanks


@lru_cache(maxsize=1)
def _bases() -> tuple[tuple[int, ...], ...]:
    """Solved grids to start from, found by search with a fixed seed; shuffles make millions of each."""
    rng = random.Random(6)
    return tuple(_filled(rng) for _ in range(2000))


def _filled(rng: random.Random) -> tuple[int, ...]:
    masks = [0] * _NUM_CELLS

    def fill(cell: int) -> bool:
        if cell == _NUM_CELLS:
            return True
        options = [1 << digit for digit in range(SIZE) if _candidates(masks, cell) >> digit & 1]
        rng.shuffle(options)
        for option in options:
            masks[cell] = option
            if fill(cell + 1):
                return True
        masks[cell] = 0
        return False

    fill(0)
    return tuple(mask.bit_length() - 1 for mask in masks)


def _random_grid(rng: random.Random) -> list[int]:
    """Digits 0 to 5 of a random solved grid."""
    base = rng.choice(_bases())
    digits = list(range(SIZE))
    rng.shuffle(digits)
    rows, columns = rng.choice(_ROW_ORDERS), rng.choice(_COLUMN_ORDERS)
    return [digits[base[row * SIZE + column]] for row in rows for column in columns]
