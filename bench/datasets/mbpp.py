"""MBPP: short Python functions from one sentence and a few tests (Austin et al., 2021).

``sanitized-mbpp.json`` (427 problems that people went over) or ``mbpp.jsonl`` (974) of
github.com/google-research/google-research, folder ``mbpp`` (CC BY 4.0). Fields: ``task_id`` (the id), ``prompt`` (or
``text``), ``test_list``, ``code``, and ``test_imports`` (or ``test_setup_code``) where tests need it. Models see the
tests, since nothing else says what the function is called. An answer is right if all tests together pass within 10
seconds of CPU time. Answers are run: see `program_running`.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.program_running import require_permission, run_program
from orchestrator.bench.datasets.records import Record, read_json_records
from orchestrator.bench.problems import Problem
from orchestrator.engine import Message

_MAX_SAMPLE_TOKENS = 512
_INSTRUCTION = (
    "{task} The function has to pass these tests:\n\n```python\n{tests}\n```\n\nReply with the whole Python code, with "
    "its imports and without the tests, in one block fenced by ```."
)


def open_mbpp(path: Path, *, count: int | None = None, seed: int = 0, allow_code_execution: bool = False) -> FileSet:
    """The problems of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, holds fewer than ``count``, or programs may not be run.
    """
    require_permission("mbpp", is_allowed=allow_code_execution)
    records = chosen(read_json_records(path), count=count, seed=seed, path=path)
    setups = {record.label("task_id"): _setup(record) for record in records}
    tests = {record.label("task_id"): "\n".join(_tests(record)) for record in records}
    return FileSet(
        name="mbpp",
        answer_kind="code",
        max_sample_tokens=_MAX_SAMPLE_TOKENS,
        problems=tuple(_problem(record) for record in records),
        check=lambda problem, answer: run_program([setups[problem.id], answer, tests[problem.id]]).has_finished,
    )


def _setup(record: Record) -> str:
    if record.has("test_imports"):
        return "\n".join(record.texts("test_imports"))
    setup = record.values.get("test_setup_code") or ""
    return setup if isinstance(setup, str) else record.text("test_setup_code")


def _tests(record: Record) -> tuple[str, ...]:
    tests = record.texts("test_list")
    if not tests:
        record.refuse("test_list", "has no tests", None)
    return tests


def _problem(record: Record) -> Problem:
    task = record.text("prompt", "text").strip()
    messages = (Message("user", _INSTRUCTION.format(task=task, tests="\n".join(_tests(record)))),)
    reference = record.text("code") if record.has("code") else None
    return Problem(record.label("task_id"), task, messages, reference)
