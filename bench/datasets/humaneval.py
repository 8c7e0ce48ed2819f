"""HumanEval: 164 Python functions to write from a signature and a description (Chen et al., 2021).

``HumanEval.jsonl`` of github.com/openai/human-eval (MIT licence), unpacked. Fields: ``task_id`` (the id), ``prompt``,
``entry_point``, ``canonical_solution`` and ``test``. An answer is the whole function or what follows the prompt, and
right if ``check`` of the tests accepts it within 10 seconds of CPU time. Answers are run: see `program_running`.
"""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.program_running import require_permission, run_program
from orchestrator.bench.datasets.records import Record, read_json_records
from orchestrator.bench.problems import Problem
from orchestrator.engine import Message

_MAX_SAMPLE_TOKENS = 768
_INSTRUCTION = (
    "Complete this Python function. Reply with the whole function, with its imports and any other functions that it "
    "needs, in one block fenced by ```. Do not call it and do not add tests.\n\n```python\n{prompt}\n```"
)


def open_humaneval(
    path: Path, *, count: int | None = None, seed: int = 0, allow_code_execution: bool = False
) -> FileSet:
    """The problems of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, holds fewer than ``count``, or programs may not be run.
    """
    require_permission("humaneval", is_allowed=allow_code_execution)
    records = chosen(read_json_records(path), count=count, seed=seed, path=path)
    cases = {record.text("task_id"): _Case(record) for record in records}
    return FileSet(
        name="humaneval",
        answer_kind="code",
        max_sample_tokens=_MAX_SAMPLE_TOKENS,
        problems=tuple(_problem(record) for record in records),
        check=lambda problem, answer: run_program(cases[problem.id].program(answer)).has_finished,
    )


class _Case:
    """What one answer is put together with."""

    def __init__(self, record: Record) -> None:
        self._prompt = record.text("prompt")
        self._entry_point = record.text("entry_point")
        if not self._entry_point.isidentifier():
            record.refuse("entry_point", "is no name of a function", self._entry_point)
        self._test = record.text("test")

    def program(self, answer: str) -> list[str]:
        """The prompt by itself is a function without a body, whose imports and helpers a whole function may use."""
        is_whole = re.search(rf"^(?:async\s+)?def\s+{self._entry_point}\b", answer, re.MULTILINE)
        begun = [self._prompt, answer] if is_whole else [f"{self._prompt}{answer}"]
        return [*begun, f"{self._test}\ncheck({self._entry_point})"]


def _problem(record: Record) -> Problem:
    prompt = record.text("prompt")
    messages = (Message("user", _INSTRUCTION.format(prompt=prompt.strip("\n"))),)
    reference = record.text("canonical_solution") if record.has("canonical_solution") else None
    return Problem(record.text("task_id"), prompt, messages, reference)
