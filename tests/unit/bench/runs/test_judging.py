"""Whether answers are right is asked once for each answer of a problem; the oracle knows it."""

import threading
from dataclasses import dataclass, field

import pytest

from orchestrator.bench.problems import Problem
from orchestrator.bench.runs.judging import Judge, Oracle
from orchestrator.engine import Message, Prompt
from orchestrator.verifier import Candidate, Meter

SUMS = (Problem("a", "1 + 1"), Problem("b", "2 + 2"))
RIGHT = {"a": "2", "b": "4"}


@dataclass
class Set:
    """A `ProblemSet` that notes what it is asked, and from where."""

    name: str = "sums"
    answer_kind: str = "exact"
    max_sample_tokens: int = 10
    problems: tuple[Problem, ...] = SUMS
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    threads: set[threading.Thread] = field(default_factory=set)

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        self.asked.append((problem.id, answer))
        self.threads.add(threading.current_thread())
        return RIGHT[problem.id] == answer


def candidate(problem: str, answer: str | None) -> Candidate:
    prompt = Prompt((Message("user", problem),))
    return Candidate(problem=problem, text="", answer=answer, answer_class=answer, is_final=True, prompt=prompt)


async def test_each_answer_of_each_problem_is_checked_once():
    asked = Set()
    judge = Judge(asked, is_quick=True)
    for _ in range(2):
        assert [await judge.is_correct(problem, "2") for problem in SUMS] == [True, False]
        assert [await judge.is_correct(problem, "4") for problem in SUMS] == [False, True]
        assert not await judge.is_correct(SUMS[0], None)
    assert sorted(asked.asked) == [("a", "2"), ("a", "4"), ("b", "2"), ("b", "4")]


@pytest.mark.parametrize("is_quick", [True, False])
async def test_what_may_take_long_is_checked_beside_the_event_loop(is_quick: bool):
    asked = Set()
    await Judge(asked, is_quick=is_quick).is_correct(SUMS[0], "2")
    assert (asked.threads == {threading.main_thread()}) is is_quick


async def test_the_oracle_scores_right_answers_1_and_all_else_0(unused_meter: Meter):
    oracle = Oracle(Judge(Set(), is_quick=True), SUMS)
    candidates = [candidate("1 + 1", "2"), candidate("2 + 2", "2"), candidate("2 + 2", None), candidate("3 + 3", "6")]
    assert await oracle.score(candidates, unused_meter) == [1.0, 0.0, 0.0, None]


@pytest.fixture
def unused_meter() -> Meter:
    return None  # type: ignore[return-value]  # the oracle buys nothing
