"""A script that works out arithmetic step by step, sometimes wrongly: enough of a problem for search and voting.

Steps are separated by blank lines and the answer is boxed. What has been written already is carried on from, errors
included, whoever wrote it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from orchestrator.engine import Prompt
from orchestrator.testing.scripts import Script, last_user_message, share

_EXPRESSION = re.compile(r"-?\d{1,9}(?:\s*[-+*]\s*\d{1,9})+")
_TERM = re.compile(r"([-+*])\s*(\d+)")
_STEP = re.compile(r"Step \d+:.*?= (-?\d+)\.", re.DOTALL)
_MAX_STEPS = 12
_ASIDES = (
    "I take the numbers in the order in which they come.",
    "This is the part where it is easy to slip, so I look at it twice.",
    "Tens first, then ones, then the two together.",
)


class Problem(NamedTuple):
    """A chain of operations: one number more than signs."""

    numbers: tuple[int, ...]
    signs: tuple[str, ...]

    @property
    def answer(self) -> int:
        """The right answer, products first."""
        problem = self
        while problem.signs:
            left, sign, right = problem.next_operation
            problem = problem.reduced(_apply(left, sign, right))
        return problem.numbers[0]

    @property
    def next_operation(self) -> tuple[int, str, int]:
        """What the next step works out."""
        place = self._place
        return self.numbers[place], self.signs[place], self.numbers[place + 1]

    def reduced(self, result: int) -> Problem:
        """The problem that is left when the next step has given ``result``."""
        place = self._place
        numbers = (*self.numbers[:place], result, *self.numbers[place + 2 :])
        return Problem(numbers, (*self.signs[:place], *self.signs[place + 1 :]))

    @property
    def _place(self) -> int:
        return self.signs.index("*") if "*" in self.signs else 0


@lru_cache(maxsize=1024)
def read_problem(text: str) -> Problem:
    """The first chain of ``+``, ``-`` and ``*`` in a text; one made up from the text if there is none."""
    found = _EXPRESSION.search(text)
    if found is None:
        numbers = [1 + int(share(0, text, place) * 98) for place in range(4)]
        return Problem(tuple(numbers), ("+", "*", "-"))
    chain = found[0]
    head = re.match(r"-?\d+", chain)
    assert head is not None, "the expression begins with a number"
    terms = _TERM.findall(chain, head.end())[:_MAX_STEPS]
    return Problem((int(head[0]), *(int(number) for _, number in terms)), tuple(sign for sign, _ in terms))


def arithmetic(*, accuracy: float = 0.7, max_asides: int = 2) -> Script:
    """Solves the first chain of operations in the last user message, products first.

    Args:
        accuracy: Probability that a whole solution is right; greedy decoding makes no mistakes if it is 0.5 or more.
        max_asides: Most sentences that say nothing, per step; they make lengths differ.
    """

    def script(prompt: Prompt, seed: int) -> str:
        text = last_user_message(prompt)
        return _Solution(read_problem(text), seed, accuracy, max_asides).rest(prompt.continuation_text)

    return script


class _Solution:
    def __init__(self, problem: Problem, seed: int, accuracy: float, max_asides: int) -> None:
        self._problem = problem
        self._seed = seed
        self._accuracy = accuracy
        self._max_asides = max_asides

    def rest(self, written: str) -> str:
        """What comes after ``written``."""
        problem, number = self._problem, 0
        for result in _STEP.findall(written):
            if problem.signs:
                problem, number = problem.reduced(int(result)), number + 1
        parts: list[str] = []
        while problem.signs:
            left, sign, right = problem.next_operation
            result = self._result(number, left, sign, right)
            parts.append(f"Step {number + 1}: {self._asides(number)}{left} {sign} {right} = {result}.")
            problem, number = problem.reduced(result), number + 1
        if written.rstrip().endswith("\\boxed{"):  # asked for the answer at once: the rest is done in the head
            return f"{problem.numbers[0]}}}."
        if "\\boxed{" not in written:
            parts.append(f"The answer is \\boxed{{{problem.numbers[0]}}}.")
        joint = "" if not written or written.endswith("\n\n") else "\n\n"
        return joint + "\n\n".join(parts)

    def _result(self, number: int, left: int, sign: str, operand: int) -> int:
        right = _apply(left, sign, operand)
        step_accuracy = self._accuracy ** (1 / len(self._problem.signs))
        luck = 0.5 if self._seed == 0 else share(self._seed, "luck", number)
        if luck < step_accuracy:
            return right
        slips = (1, -1, 10, -10, 2)  # the same slip is likelier than another, so wrong answers can win votes
        return right + slips[int(share(self._seed, "slip", number) ** 2 * len(slips))]

    def _asides(self, number: int) -> str:
        count = int(share(self._seed, "asides", number) * (self._max_asides + 1))
        first = int(share(self._seed, "aside", number) * len(_ASIDES))
        return "".join(f"{_ASIDES[(first + turn) % len(_ASIDES)]} " for turn in range(count))


def _apply(value: int, sign: str, number: int) -> int:
    if sign == "+":
        return value + number
    return value - number if sign == "-" else value * number
