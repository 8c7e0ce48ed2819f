"""MATH-500: 500 competition problems of MATH (Hendrycks et al., 2021) chosen by Lightman et al. (2023).

Published in github.com/openai/prm800k (MIT licence, as MATH itself) and as ``HuggingFaceH4/MATH-500`` on the Hugging
Face hub. A file of JSON lines with the fields ``problem``, ``answer`` and ``unique_id`` (the id; without it, the line
number); ``solution``, ``subject`` and ``level`` are not needed. An answer is right if it is mathematically equal to
``answer``, as `orchestrator.verifiers.answers` compares them.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.math_equality import MathEquality
from orchestrator.bench.datasets.records import Record, read_json_records
from orchestrator.bench.problems import Problem

_MAX_SAMPLE_TOKENS = 2048


def open_math500(path: Path, *, count: int | None = None, seed: int = 0) -> FileSet:
    """The problems of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, or holds fewer than ``count``.
    """
    problems = [_problem(record) for record in read_json_records(path)]
    is_equal = MathEquality()
    return FileSet(
        name="math500",
        answer_kind="math",
        max_sample_tokens=_MAX_SAMPLE_TOKENS,
        problems=tuple(chosen(problems, count=count, seed=seed, path=path)),
        check=lambda problem, answer: is_equal(problem.reference or "", answer),
    )


def _problem(record: Record) -> Problem:
    id_ = record.label("unique_id") if record.has("unique_id") else str(record.number)
    return Problem(id_, record.text("problem"), reference=record.label("answer"))
