"""GSM8K: grade-school word problems (Cobbe et al., 2021; github.com/openai/grade-school-math, MIT licence).

A file of JSON lines, for instance ``test.jsonl`` (1,319 problems) or a split of ``openai/gsm8k`` from the Hugging Face
hub. Fields: ``question``, and ``answer``, a written solution that ends with ``#### NUMBER``. An answer is right if it
states the same number, exactly; units, currencies and thousands separators do not matter. Ids are line numbers.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.records import Record, read_json_records
from orchestrator.bench.problems import Problem
from orchestrator.verifiers.answers.plain import number_of

_MAX_SAMPLE_TOKENS = 512


def open_gsm8k(path: Path, *, count: int | None = None, seed: int = 0) -> FileSet:
    """The problems of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, or holds fewer than ``count``.
    """
    problems = [_problem(record) for record in read_json_records(path)]
    return FileSet(
        name="gsm8k",
        answer_kind="number",
        max_sample_tokens=_MAX_SAMPLE_TOKENS,
        problems=tuple(chosen(problems, count=count, seed=seed, path=path)),
        check=_is_right,
    )


def _problem(record: Record) -> Problem:
    _, marker, number = record.text("answer").rpartition("####")
    if not marker or number_of(number) is None:
        record.refuse("answer", "does not end with #### and a number", None)
    return Problem(str(record.number), record.text("question"), reference=number.strip())


def _is_right(problem: Problem, answer: str) -> bool:
    return number_of(answer) == number_of(problem.reference or "")
