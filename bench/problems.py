"""Sets of problems that a benchmark is run on: the lab's tasks and real datasets, behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.engine import Message


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        id: Stable, and unique in its set.
        text: What is asked.
        messages: The conversation that models see; None for the problem with the usual instruction.
        reference: The right answer, or a right one, for people to read; None if there is none to show.
    """

    id: str
    text: str
    messages: tuple[Message, ...] | None = None
    reference: str | None = None


class ProblemSet(Protocol):
    """Problems that are asked, answered and checked in the same way."""

    @property
    def name(self) -> str:
        """As in rows and reports, for instance ``expression@6`` or ``gsm8k``."""
        ...

    @property
    def answer_kind(self) -> str:
        """How answers are read (see `orchestrator.verifiers.answers`)."""
        ...

    @property
    def max_sample_tokens(self) -> int:
        """Long enough for nearly every solution."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """In a fixed order."""
        ...

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether an answer is right; None never is. May take seconds where programs are run."""
        ...
