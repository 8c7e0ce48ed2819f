"""Where problems come from: an argument, a text file, stdin, or JSON Lines with one problem each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from orchestrator.errors import InvalidRequest
from orchestrator.job import MAX_PROBLEM_CHARS

PROBLEM_FIELDS = ("problem", "question", "prompt", "input")
REFERENCE_FIELDS = ("answer", "reference", "target", "expected")
_MAX_TEXT_BYTES = 4 * MAX_PROBLEM_CHARS
_MAX_LINE_BYTES = 8 * MAX_PROBLEM_CHARS
_BOM = b"\xef\xbb\xbf"
STDIN = "-"

_T = TypeVar("_T")

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a JSON Lines file.

    Attributes:
        id: Its own, or the number of its line.
        line: From 1.
        text: The problem; None if the line cannot be used.
        reference: The right answer, if the row has one.
        row: The whole row.
        error: Why the line cannot be used.
    """

    id: str
    line: int
    text: str | None
    reference: str | None = None
    row: Json = field(default_factory=dict)
    error: InvalidRequest | None = None


def is_json_lines(file: str | None, *, is_forced: bool) -> bool:
    """Whether many problems are meant."""
    return is_forced or (file is not None and Path(file).suffix.lower() in {".jsonl", ".ndjson"})


def read_text(argument: str | None, file: str | None) -> str:
    """The one problem that is meant.

    Raises:
        InvalidRequest: It is given twice or not at all, or cannot be read as text.
    """
    if argument is not None and argument != STDIN and file is not None:
        raise InvalidRequest("the problem is given both as an argument and with --file; choose one", field="problem")
    if argument is not None and argument != STDIN:
        return argument
    name = _source_name(file)
    data = _open_and(lambda stream: stream.read(_MAX_TEXT_BYTES + 1), file)
    if len(data) > _MAX_TEXT_BYTES:
        raise InvalidRequest(
            f"{name} is too long for one problem: more than {_MAX_TEXT_BYTES:,} bytes", field="problem", value=name
        )
    return _decoded(data, name).strip()


def read_problems(file: str | None) -> list[Problem]:
    """The problems of a JSON Lines file or of stdin; lines that cannot be used carry their error.

    Raises:
        InvalidRequest: The file cannot be read, or holds no line.
    """
    name = _source_name(file)
    problems = _open_and(lambda stream: list(_numbered(_lines(stream, name), name)), file)
    if not problems:
        raise InvalidRequest(f"{name} holds no problem", field="file", value=name)
    return problems


def _source_name(file: str | None) -> str:
    return "stdin" if file in {None, STDIN} else str(file)


def _open_and(read: Callable[[BinaryIO], _T], file: str | None) -> _T:
    if file is None or file == STDIN:
        if sys.stdin is None or (file is None and sys.stdin.isatty()):
            raise InvalidRequest(
                "there is no problem; give it as an argument, with --file, or on stdin", field="problem"
            )
        return read(sys.stdin.buffer)
    try:
        with Path(file).open("rb") as stream:
            return read(stream)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot read {file!r}: {reason}", field="file", value=file) from error


def _decoded(data: bytes, name: str) -> str:
    try:
        text = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} is not valid UTF-8: byte 0x{data[error.start]:02x} at position {error.start}",
            field="problem",
            value=name,
        ) from None
    if "\0" in text:
        raise InvalidRequest(
            f"{name} holds a NUL byte at position {text.index(chr(0))}; is it a text file?", field="problem", value=name
        )
    return text


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    for number in _counting():
        line = stream.readline(_MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > _MAX_LINE_BYTES:
            raise InvalidRequest(
                f"{name}, line {number}: more than {_MAX_LINE_BYTES:,} bytes", field="file", value=name
            )
        if line.strip():
            yield number, line


def _counting() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


def _numbered(lines: Iterable[tuple[int, bytes]], name: str) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for number, line in lines:
        problem = _problem(number, line, name)
        if problem.id in seen:
            reason = f"{name}, line {number}: the id {problem.id!r} is that of line {seen[problem.id]} already"
            repeated = InvalidRequest(reason, field="id", value=problem.id)
            problem = Problem(f"{problem.id} (line {number})", number, None, error=problem.error or repeated)
        seen[problem.id] = number
        yield problem


def _problem(number: int, line: bytes, name: str) -> Problem:
    row_id = str(number)
    try:
        where = f"{name}, line {number}"
        row = _row(_decoded(line, where), where)
        row_id = str(row.get("id", row_id))
        return Problem(row_id, number, _text(row, where), _reference(row), row)
    except InvalidRequest as error:
        return Problem(row_id, number, None, error=error)


def _row(text: str, where: str) -> Json:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where} is not JSON: {error}", field="file", value=text.strip()) from None
    if isinstance(row, str):
        return {"problem": row}
    if not isinstance(row, dict):
        raise InvalidRequest(
            f"{where} must be an object with a field {PROBLEM_FIELDS[0]!r}, not {type(row).__name__}", field="file"
        )
    return row


def _text(row: Json, where: str) -> str:
    for name in PROBLEM_FIELDS:
        if name not in row:
            continue
        text = row[name]
        if not isinstance(text, str):
            raise InvalidRequest(f"{where}: {name!r} must be text, not {type(text).__name__}", field=name)
        if not text.strip():
            raise InvalidRequest(f"{where}: {name!r} is empty", field=name)
        return text
    raise InvalidRequest(
        f"{where} has none of the fields {', '.join(PROBLEM_FIELDS)}; it has: {', '.join(map(str, row)) or 'none'}",
        field="file",
    )


def _reference(row: Json) -> str | None:
    """The right answer: what follows ``####`` in GSM8K's solutions, else the field as it is."""
    for name in REFERENCE_FIELDS:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value.rpartition("####")[2].strip() or None
    return None
