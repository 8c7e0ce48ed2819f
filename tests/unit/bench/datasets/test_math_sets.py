"""GSM8K, MATH-500 and AIME: their own solutions are right, the same with another answer are not."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from orchestrator.bench.datasets.aime import open_aime
from orchestrator.bench.datasets.file_set import FileSet
from orchestrator.bench.datasets.gsm8k import open_gsm8k
from orchestrator.bench.datasets.math500 import open_math500
from orchestrator.errors import InvalidRequest
from orchestrator.verifiers.answers import open_reader


@pytest.fixture(scope="module")
def gsm8k(excerpt) -> FileSet:
    return open_gsm8k(excerpt("gsm8k.jsonl"))


@pytest.fixture(scope="module")
def math500(excerpt) -> FileSet:
    """One for all tests: its worker takes a second to start."""
    return open_math500(excerpt("math500.jsonl"))


@pytest.mark.parametrize(("name", "solution"), [("gsm8k", "answer"), ("math500", "solution")])
def test_reference_solutions_are_right_and_perturbed_ones_wrong(request, excerpt, name: str, solution: str) -> None:
    problem_set = request.getfixturevalue(name)
    reader = open_reader(problem_set.answer_kind)
    lines = excerpt(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(problem_set.problems) >= 5
    for problem, line in zip(problem_set.problems, lines, strict=True):
        answer = reader.extract(json.loads(line)[solution])
        assert problem_set.is_correct(problem, answer)
        other = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), answer, count=1)
        assert not problem_set.is_correct(problem, other if other != answer else "west")
        assert not problem_set.is_correct(problem, None)
        assert not problem_set.is_correct(problem, "9" * 100_000)


def test_gsm8k_compares_numbers_and_not_how_they_are_written(gsm8k) -> None:
    assert [(problem.id, problem.reference) for problem in gsm8k.problems][3:] == [("4", "2,125"), ("5", "-10")]
    for answer, is_right in (("2125", True), ("$2,125.00", True), ("2125 dollars", True), ("2,125.5", False)):
        assert gsm8k.is_correct(gsm8k.problems[3], answer) is is_right
    assert gsm8k.problems[0].messages is None


def test_math500_compares_what_is_meant(math500) -> None:
    by_reference = {problem.reference: problem for problem in math500.problems}
    for reference, answer, is_right in (
        (r"\frac{14}{3}", r"$\dfrac{28}{6}$", True),
        (r"11\sqrt2", r"\sqrt{242}", True),
        ("x^3+3x-6", "3x - 6 + x^{3}", True),
        ("x^3+3x-6", "x^3+3x+6", False),
        ("(15,-29)", "(-29, 15)", False),
    ):
        assert math500.is_correct(by_reference[reference], answer) is is_right, answer
    assert all(re.fullmatch(r"test/\w+/\d+\.json", problem.id) for problem in math500.problems)


async def test_math500_may_be_asked_from_threads_and_inside_an_event_loop(math500) -> None:
    (problem,) = (problem for problem in math500.problems if problem.reference == r"11\sqrt2")
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(asyncio.to_thread(math500.is_correct, problem, r"\sqrt{242}")) for _ in range(4)]
    assert all(task.result() for task in asked)
    assert math500.is_correct(problem, r"\frac{22}{\sqrt{2}}")


# AIME's problems belong to the MAA; these have the fields of public lists, and problems of our own.
@pytest.mark.parametrize(
    "record",
    [
        {"id": 60, "problem": "What is 30+3?", "solution": "33", "answer": "033", "year": "2024"},
        {"ID": "2024-II-4", "Problem": "What is 30+3?", "Solution": "33", "Answer": 33},
        {"question": "What is 30+3?", "answer": "33^\\circ"},
    ],
)
def test_aime_is_read_in_its_public_forms(written, record) -> None:
    aime = open_aime(written(record))
    (problem,) = aime.problems
    assert problem.text == "What is 30+3?"
    assert problem.reference == "33"
    assert problem.id == str(record.get("id", record.get("ID", 1)))
    for answer, is_right in (("33", True), ("033", True), ("$33$", True), ("34", False), ("a", False), (None, False)):
        assert aime.is_correct(problem, answer) is is_right


@pytest.mark.parametrize("answer", ["1000", "-1", "1/2", "x", 1000])
def test_an_answer_that_aime_cannot_have_is_refused(written, answer) -> None:
    with pytest.raises(InvalidRequest, match="field 'answer' is no whole number from 0 to 999"):
        open_aime(written({"problem": "x", "answer": answer}))
    with pytest.raises(InvalidRequest, match="field 'answer' is a number and should be text"):
        open_aime(written({"problem": "x", "answer": 33.0}))
