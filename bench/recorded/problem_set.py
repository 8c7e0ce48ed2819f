"""The problems of a recorded pool as a set, which knows of recorded answers whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.recorded.records import Pool
from orchestrator.errors import InvalidRequest


class PoolSet:
    """A `ProblemSet` of a pool's problems, with the conversations that were recorded.

    Args:
        pool: The pool.
        real: Checks answers that were not recorded; None to refuse them.
        others: Pools of the same set, whose answers are known too.
    """

    def __init__(self, pool: Pool, real: ProblemSet | None = None, *, others: Sequence[Pool] = ()) -> None:
        self._pool = pool
        self._others = others
        self._real = real
        self._answers: dict[str, dict[str, bool]] = {}

    @property
    def name(self) -> str:
        """That of the set that was recorded."""
        return self._pool.header.set

    @property
    def answer_kind(self) -> str:
        """How answers were read."""
        return self._pool.header.answer_kind

    @property
    def max_sample_tokens(self) -> int:
        """Where samples were cut."""
        return self._pool.header.max_sample_tokens

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """In the order of the file."""
        return tuple(
            Problem(problem.id, problem.text, problem.messages, problem.reference)
            for problem in self._pool.problems.values()
        )

    @cached_property
    def _real_problems(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self._real.problems} if self._real is not None else {}

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether an answer is right, by looking it up; None never is, nor is a recorded text that states no answer.

        Raises:
            InvalidRequest: The problem is not in the pool; or the answer was not recorded and there is no real set.
        """
        if answer is None:
            return False
        known = self._answers.get(problem.id)
        if known is None:
            known = self._answers[problem.id] = self._recorded(problem)
        if answer in known:
            return known[answer]
        if self._real is not None:
            return self._real.is_correct(self._real_problems.get(problem.id, problem), answer)
        raise InvalidRequest(
            f"nobody gave this answer to problem {problem.id!r} when pool {self._pool.name!r} was recorded, so it does "
            "not know whether it is right; name the set itself too, to have it checked",
            field="answer",
            value=answer,
        )

    def _recorded(self, problem: Problem) -> dict[str, bool]:
        recorded = self._pool.problems.get(problem.id)
        if recorded is None:
            message = f"pool {self._pool.name!r} holds no problem {problem.id!r}"
            raise InvalidRequest(message, field="problem", value=problem.id)
        same = [other.problem_of(recorded.messages) for other in self._others]
        samples = [sample for found in (*same, recorded) if found is not None for sample in found.samples]
        answers = {sample.answer: sample.is_correct for sample in samples if sample.answer is not None}
        texts = {sample.text: False for sample in samples if sample.answer is None}
        return texts | answers
