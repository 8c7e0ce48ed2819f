"""What simulated models say: solutions of some steps with lengths from a distribution, and an answer that may agree.

Only lengths, steps and answers matter to policies, so texts are filler words of one token each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from orchestrator.engine import Prompt
from orchestrator.errors import InvalidRequest
from orchestrator.planning.workload import Lengths
from orchestrator.step_scores import STEP_DELIMITER
from orchestrator.testing.scripts import last_user_message, share

_ANSWER = "The answer is \\boxed{%d}."
_WORDS = ("so", "then", "we", "add", "both", "and", "find", "that", "it", "is")
_FEWEST_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Solutions:
    """How a model's solutions look.

    Attributes:
        lengths: Tokens of a whole solution.
        steps: Steps of a solution, on average; each is about as long.
        agreement: Chance that a solution gives the problem's answer; others give one of ten wrong ones.
    """

    lengths: Lengths = field(default_factory=lambda: Lengths(300.0, 0.5))
    steps: float = 6.0
    agreement: float = 0.6

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise InvalidRequest("steps must be from 1 to 1,000", field="steps", value=self.steps)
        if not 0 <= self.agreement <= 1:
            raise InvalidRequest("agreement must be from 0 to 1", field="agreement", value=self.agreement)


def solving(look: Solutions) -> Callable[[Prompt, int], str]:
    """A script of solutions that look like this: a whole one from the bare problem, else the steps that are left."""

    def script(prompt: Prompt, seed: int) -> str:
        problem = last_user_message(prompt)
        num_steps = max(1, round(look.steps * (0.6 + 0.8 * share(0, "steps", problem))))
        written = prompt.continuation_text
        done = written.count(STEP_DELIMITER)
        length = _length(look.lengths, seed, problem, done)
        per_step = max(1, round(length / num_steps))
        left = max(0, num_steps - done)
        sizes = [max(1, round(per_step * (0.5 + share(seed, "size", turn, done)))) for turn in range(left)]
        steps = [_words(size, seed, done + turn) for turn, size in enumerate(sizes)]
        ending = _ANSWER % _answer(look, problem, seed, done)
        return STEP_DELIMITER.join([*steps, ending])

    return script


def _length(lengths: Lengths, seed: int, *parts: object) -> float:
    if lengths.cv == 0:
        return lengths.mean
    sigma2 = math.log1p(lengths.cv**2)
    rng = np.random.default_rng(int(share(seed, "length", *parts) * 2**53))
    return max(_FEWEST_TOKENS, float(rng.lognormal(math.log(lengths.mean) - sigma2 / 2, math.sqrt(sigma2))))


def _words(count: int, seed: int, turn: int) -> str:
    first = int(share(seed, "words", turn) * len(_WORDS))
    return " ".join(_WORDS[(first + place * (1 + turn % 7)) % len(_WORDS)] for place in range(count))


def _answer(look: Solutions, problem: str, seed: int, done: int) -> int:
    right = int(share(0, "answer", problem) * 900)
    if share(seed, "agrees", problem, done) < look.agreement:
        return right
    return 1000 + int(share(seed, "wrong", problem, done) * 10)
