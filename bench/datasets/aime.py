"""AIME: the American Invitational Mathematics Examination, whose answers are whole numbers from 0 to 999.

The problems belong to the Mathematical Association of America; published lists of them are, for instance,
``HuggingFaceH4/aime_2024`` (fields ``id``, ``problem``, ``solution``, ``answer``), ``Maxwell-Jia/AIME_2024`` (``ID``,
``Problem``, ``Solution``, ``Answer``), ``opencompass/AIME2025`` and ``math-ai/aime25``. A file of JSON lines with a
problem (``problem``, ``Problem`` or ``question``) and its ``answer`` (or ``Answer``), a number or text such as ``033``;
``id`` (or ``ID``) is the id, and without it the line number. An answer is right if it states that number.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.records import Record, read_json_records
from orchestrator.bench.problems import Problem
from orchestrator.verifiers.answers.plain import number_of

_MAX_SAMPLE_TOKENS = 4096
_LARGEST = 999


def open_aime(path: Path, *, count: int | None = None, seed: int = 0) -> FileSet:
    """The problems of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, or holds fewer than ``count``.
    """
    problems = [_problem(record) for record in read_json_records(path)]
    return FileSet(
        name="aime",
        answer_kind="math",
        max_sample_tokens=_MAX_SAMPLE_TOKENS,
        problems=tuple(chosen(problems, count=count, seed=seed, path=path)),
        check=_is_right,
    )


def _problem(record: Record) -> Problem:
    answer = record.label("answer", "Answer")
    number = number_of(answer)
    if number is None or number.denominator != 1 or not 0 <= number <= _LARGEST:
        record.refuse("answer", f"is no whole number from 0 to {_LARGEST}", answer)
    id_ = record.label("id", "ID") if record.has("id", "ID") else str(record.number)
    return Problem(id_, record.text("problem", "Problem", "question", "Question"), reference=str(number))


def _is_right(problem: Problem, answer: str) -> bool:
    return number_of(answer) == number_of(problem.reference or "")
