"""Whether answers are right, checked once each; and the oracle, a verifier that knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import ClassVar

from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.runs.suite import ORACLE
from orchestrator.verifier import Candidate, Meter


class Judge:
    """Checks answers to the problems of one set, and remembers what came of it.

    Args:
        problem_set: Says what is right.
        is_quick: It says so in much less than a millisecond, so that no thread is needed.
    """

    def __init__(self, problem_set: ProblemSet, *, is_quick: bool) -> None:
        self._set = problem_set
        self._is_quick = is_quick
        self._known: dict[tuple[str, str], bool] = {}

    async def is_correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether the answer is right; None never is."""
        if answer is None:
            return False
        key = problem.id, answer
        if key not in self._known:
            check = self._set.is_correct
            self._known[key] = (
                check(problem, answer) if self._is_quick else await asyncio.to_thread(check, problem, answer)
            )
        return self._known[key]


class Oracle:
    """The verifier that scores right answers 1 and all else 0: what no verifier can surpass.

    Args:
        judge: Knows what is right.
        problems: Told apart by their texts.
    """

    source: ClassVar[str] = "pass@k as an upper bound: Brown et al., 2024, arXiv:2407.21787"
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, judge: Judge, problems: Iterable[Problem]) -> None:
        self._judge = judge
        self._problems = {problem.text: problem for problem in problems}

    @property
    def name(self) -> str:
        """The name its scores are kept under."""
        return ORACLE

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:  # noqa: ARG002  # nothing to buy
        """1.0 for each candidate with a right answer, else 0.0; None for problems that it does not know."""
        return [await self._score(candidate) for candidate in candidates]

    async def _score(self, candidate: Candidate) -> float | None:
        problem = self._problems.get(candidate.problem)
        return None if problem is None else float(await self._judge.is_correct(problem, candidate.answer))
