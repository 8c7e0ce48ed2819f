"""Opens sets of problems by what a user writes: a task of the lab, or a real set's name and the path of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from orchestrator.bench.datasets.aime import open_aime
from orchestrator.bench.datasets.game24 import open_game24
from orchestrator.bench.datasets.gsm8k import open_gsm8k
from orchestrator.bench.datasets.humaneval import open_humaneval
from orchestrator.bench.datasets.math500 import open_math500
from orchestrator.bench.datasets.mbpp import open_mbpp
from orchestrator.bench.lab_set import open_lab_set
from orchestrator.bench.problems import ProblemSet
from orchestrator.bench.tasks import TASKS, Split
from orchestrator.errors import InvalidRequest, UnknownName


class _Opener(Protocol):
    def __call__(self, path: Path, *, count: int | None, seed: int) -> ProblemSet: ...


_FILE_SETS: dict[str, _Opener] = {
    "aime": open_aime,
    "game24": open_game24,
    "gsm8k": open_gsm8k,
    "humaneval": open_humaneval,
    "math500": open_math500,
    "mbpp": open_mbpp,
}
_STEP_SETS = ("processbench",)

FORMS = (*(f"{name}[@COMPLEXITY]" for name in TASKS), *(f"{name}:PATH" for name in _FILE_SETS))
"""What `open_set` understands."""


def open_set(spec: str, *, count: int | None = None, seed: int = 0, split: Split = "test") -> ProblemSet:
    """The set that ``spec`` names.

    Args:
        spec: ``expression@6`` or ``expression`` (its default complexity) for a task, ``gsm8k:PATH`` for a real set.
        count: How many problems; None for all of a file, and for 100 of a task.
        seed: Of the draw, or of the random part of a file.
        split: Of a task; a file is what it is.

    Raises:
        UnknownName: There is no such set.
        InvalidRequest: The complexity, the file or the count cannot be used; or programs would be run that may not be.
    """
    name, colon, path = spec.partition(":")
    if colon and name in _STEP_SETS:
        raise InvalidRequest(
            f"{name} has no questions to answer: it judges verifiers of steps; in Python, read it with "
            f"read_{name} and compare with first_error_scores, both of orchestrator.bench.datasets.{name}",
            field="set",
            value=spec,
        )
    if colon and name in _FILE_SETS:
        if not path:
            raise InvalidRequest(f"{spec!r} names no file; write {name}:PATH", field="set", value=spec)
        return _FILE_SETS[name](_expanded(path), count=count, seed=seed)
    task, at, complexity = spec.partition("@")
    if task in TASKS and not (at and not _is_number(complexity)):
        return open_lab_set(task, int(complexity) if at else None, count=count, seed=seed, split=split)
    raise UnknownName(kind="set of problems", name=spec, known=FORMS, hint=_hint(spec))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # the home of a user that does not exist
        raise InvalidRequest(f"{path!r} cannot be used: {error}", field="path", value=path) from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _hint(spec: str) -> str:
    name = spec.partition(":")[0].partition("@")[0]
    if name in TASKS:
        return f"write {name}@NUMBER, for instance {name}@{TASKS[name].default_complexity}"
    if name in _FILE_SETS or name in _STEP_SETS:
        return f"{name} is read from a file of yours: write {name}:PATH"
    return "real sets are read from files of yours"
