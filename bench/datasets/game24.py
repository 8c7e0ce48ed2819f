r"""Game of 24: make 24 from four numbers (the 1,362 games of 4nums.com, as used by Yao et al., 2023).

``24.csv`` of github.com/princeton-nlp/tree-of-thought-llm (MIT licence for the repository); that paper evaluates on the
games ranked 901 to 1,000. A CSV file with the columns ``Rank`` (the id; without it, the line number) and ``Puzzles``
(``4 9 10 13``). An answer is right if it is an expression of these numbers, each used once, with ``+ - * /`` and
brackets, whose value is exactly 24. ``\times``, ``\cdot``, ``\div``, ``\frac{..}{..}`` and the signs for them are
understood, and ``= 24`` may follow.
"""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.records import Record, read_csv_records
from orchestrator.bench.problems import Problem
from orchestrator.bench.tasks.arithmetic import leaves_of, parse, value_of
from orchestrator.engine import Message

_MAX_SAMPLE_TOKENS = 512
_TARGET = 24
_MAX_ANSWER_CHARS = 500
_PUZZLE = re.compile(r"\s*\d{1,3}(?:\s+\d{1,3}){3}\s*", re.ASCII)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SIGNS = {
    **dict.fromkeys(("\\times", "\\cdot", "\\ast", "\u00d7", "\u22c5", "\u00b7", "\u2217"), "*"),
    **dict.fromkeys(("\\div", "\u00f7", "\u2215"), "/"),
    **dict.fromkeys(("\u2212", "\u2013"), "-"),
    **dict.fromkeys(("\\left", "\\right", "\\,", "\\;", "\\!", "\\ ", "$"), ""),
    **dict.fromkeys(("[", "\\{"), "("),
    **dict.fromkeys(("]", "\\}"), ")"),
}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))


def open_game24(path: Path, *, count: int | None = None, seed: int = 0) -> FileSet:
    """The games of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, or holds fewer than ``count``.
    """
    problems = [_problem(record) for record in read_csv_records(path)]
    return FileSet(
        name="game24",
        answer_kind="exact",
        max_sample_tokens=_MAX_SAMPLE_TOKENS,
        problems=tuple(chosen(problems, count=count, seed=seed, path=path)),
        check=_is_right,
    )


def _problem(record: Record) -> Problem:
    puzzle = record.text("Puzzles")
    if not _PUZZLE.fullmatch(puzzle):
        record.refuse("Puzzles", "should be four numbers", puzzle)
    numbers = " ".join(puzzle.split())
    id_ = record.label("Rank") if record.has("Rank") else str(record.number)
    return Problem(id_, numbers, messages=(Message("user", _instruction(numbers)),))


def _instruction(numbers: str) -> str:
    return (
        f"Make {_TARGET} from the numbers {', '.join(numbers.split())}. Use each of them exactly once, with +, -, *, / "
        "and brackets. Reason step by step, and put the expression, and nothing else, within \\boxed{}; for 1 2 4 6 "
        "that could be \\boxed{4*6*(2-1)}."
    )


def _is_right(problem: Problem, answer: str) -> bool:
    if len(answer) > _MAX_ANSWER_CHARS:
        return False
    try:
        tree = parse(_plain(answer))
        return value_of(tree) == _TARGET and sorted(leaves_of(tree)) == sorted(map(int, problem.text.split()))
    except (ValueError, ZeroDivisionError):
        return False


def _plain(answer: str) -> str:
    """The expression in the signs that `parse` knows, without blanks and without ``= 24``."""
    text = "".join(_SIGN.sub(lambda match: _SIGNS[match[0]], answer).split())
    found = 1
    while found:
        text, found = _FRACTION.subn(r"((\1)/(\2))", text)
    return text.removesuffix(".").removesuffix(f"={_TARGET}")
