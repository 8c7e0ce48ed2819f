"""Recorded pools: samples of one model on one set of problems, so that policies can be replayed without a model.

A pool is a file of JSON lines, a header and then a line for each problem. While it is recorded it is called
``NAME.pool.jsonl``; complete and compressed, ``NAME.pool.xz``. `read_pool` reads both, `PoolWriter` writes both.

A problem's samples are written by columns, and samples that are equal in everything are written once. Measured on
made-up samples with rewards of their steps, 300 problems x 64 samples of 40 tokens: of ``sudoku6``, where no two are
equal, 632 kB with an object per sample and 583 kB by columns; of ``expression``, where 42 of 64 differ, 262 kB, 255 kB
by columns, and 249 kB when each is written once, which leaves a third less to parse.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.bench.recorded.lines import ProblemLine, line_of
from orchestrator.bench.recorded.records import Header, Pool, PoolProblem, PoolSample, RecordedModel, StepScores
from orchestrator.errors import InvalidRequest, TtcError

__all__ = [
    "FINISHED",
    "RECORDING",
    "Header",
    "Pool",
    "PoolProblem",
    "PoolSample",
    "PoolWriter",
    "RecordedModel",
    "StepScores",
    "read_pool",
]

RECORDING = ".pool.jsonl"
FINISHED = ".pool.xz"
_MAX_BYTES = 1 << 30
"""More than that, decompressed, is not read."""
_MEMORY_BYTES = 256 << 20
"""For the decompressor; what is written here takes 65 MiB."""
_PRESET = 9 | lzma.PRESET_EXTREME
_ModelT = TypeVar("_ModelT", bound=BaseModel)


def stem_of(path: str | Path) -> Path:
    """A pool's path without the suffix that says how far it is."""
    text = str(path)
    return Path(text.removesuffix(FINISHED).removesuffix(RECORDING))


def read_pool(path: str | Path) -> Pool:
    """The pool in a file; one that is still being recorded has the problems that it holds so far.

    Args:
        path: With its suffix; without one, the complete file is taken where there is one.

    Raises:
        InvalidRequest: There is no such file, or something in it is no pool's; names the file and the line.
    """
    found = Path(path)
    stem = stem_of(path)
    if stem == found:
        both = (Path(f"{stem}{suffix}") for suffix in (FINISHED, RECORDING))
        found = next((file for file in both if file.exists()), found)
    lines = _complete_lines(found)
    if not lines:
        raise _broken(found, "it is empty")
    header = _parsed(Header, lines[0], found, 1)
    problems: dict[str, PoolProblem] = {}
    for number, line in enumerate(lines[1:], 2):
        problem = _problem(line, header, found, number)
        if problem.id in problems:
            raise _broken(found, f"line {number}: problem {problem.id!r} is there twice")
        problems[problem.id] = problem
    return Pool(stem.name, header, problems)


def _problem(line: bytes, header: Header, path: Path, number: int) -> PoolProblem:
    parsed = _parsed(ProblemLine, line, path, number)
    try:
        return parsed.problem(header)
    except ValueError as error:
        raise _broken(path, f"line {number}, problem {parsed.id[:80]!r}: {error}") from None


def _parsed(kind: type[_ModelT], line: bytes, path: Path, number: int) -> _ModelT:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _broken(path, f"line {number}{where and f', {where}'}: {first['msg']}") from None
    except TtcError as error:  # a field's own check
        raise _broken(path, f"line {number}: {error}") from None


def _broken(path: Path, reason: str) -> InvalidRequest:
    message = f"{path} is no pool that can be used: {reason}; record it again, or get it again"
    return InvalidRequest(message, field="pool", value=str(path))


def _complete_lines(path: Path) -> list[bytes]:
    """Lines without their ends; in a file that is being recorded, what a crash left of the last one is dropped."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        message = f"the pool {str(path)!r} cannot be read: {error.strerror or error}"
        raise InvalidRequest(message, field="pool", value=str(path)) from None
    is_finished = path.name.endswith(".xz")
    if is_finished:
        data = _decompressed(data, path)
    if len(data) > _MAX_BYTES:
        raise _broken(path, f"it holds more than {_MAX_BYTES >> 20} MiB")
    *lines, rest = data.split(b"\n")
    if rest and is_finished:
        raise _broken(path, f"line {len(lines) + 1} breaks off")
    return lines


def _decompressed(data: bytes, path: Path) -> bytes:
    decompressor = lzma.LZMADecompressor(memlimit=_MEMORY_BYTES)
    try:
        result = decompressor.decompress(data, _MAX_BYTES + 1)
    except lzma.LZMAError as error:
        raise _broken(path, f"it cannot be decompressed ({error})") from None
    if not decompressor.eof and len(result) <= _MAX_BYTES:
        raise _broken(path, "it breaks off")
    return result


class PoolWriter:
    """Writes a pool problem by problem; goes on with a file that was begun with the same header.

    Every problem is on disk when `append` returns; what a crash left of a line is cut off.

    Args:
        path: With or without one of the suffixes.
        header: What is being recorded; of a file that was begun, machine and date are kept.

    Raises:
        InvalidRequest: The file is broken, or was begun with another header; names the first difference.
    """

    def __init__(self, path: str | Path, header: Header) -> None:
        stem = stem_of(path)
        self.recording = Path(f"{stem}{RECORDING}")
        self.finished = Path(f"{stem}{FINISHED}")
        self._lines: dict[str, bytes] = {}
        self._size: int | None = None  # of the file being recorded; None before there is one
        self.header = header
        for file in (self.recording, self.finished):
            if file.exists():
                self._take_over(file, header)
                break

    def _take_over(self, path: Path, wanted: Header) -> None:
        lines = _complete_lines(path)
        if not lines:
            return  # the process died before the first line was written
        held = _parsed(Header, lines[0], path, 1)
        if (difference := held.difference(wanted)) is not None:
            message = f"{path} was recorded otherwise: {difference}; name another file, or delete this one"
            raise InvalidRequest(message, field="out", value=str(path))
        self.header = held
        for number, line in enumerate(lines[1:], 2):
            self._lines[_problem(line, held, path, number).id] = line + b"\n"
        if path == self.recording:
            self._size = sum(len(line) + 1 for line in lines)
            with _told(path):
                os.truncate(path, self._size)

    @property
    def held(self) -> frozenset[str]:
        """Ids of the problems in the file."""
        return frozenset(self._lines)

    def append(self, problem: PoolProblem) -> None:
        """Adds a problem, durably.

        Raises:
            InvalidRequest: It is there already, holds text that cannot be written, or the file cannot be written.
        """
        if problem.id in self._lines:
            raise InvalidRequest(f"problem {problem.id!r} is there already", field="problem", value=problem.id)
        line = line_of(problem, self.header)
        with _told(self.recording):
            if self._size is None:
                self._begin()
            with self.recording.open("r+b") as file:
                if file.seek(0, os.SEEK_END) != self._size:
                    raise _changed(self.recording)
                _written(file, line)
                self._size = file.tell()
        self._lines[problem.id] = line

    def finish(self, order: Iterable[str]) -> Path:
        """Puts the problems in order, compresses them, and leaves one file; takes seconds for a megabyte.

        Args:
            order: Ids of problems that are to come first, in this order; others follow as they were recorded.

        Raises:
            InvalidRequest: It cannot be written.
        """
        if self._size is None and self.finished.exists():
            return self.finished
        wanted = [id_ for id_ in dict.fromkeys(order) if id_ in self._lines]
        ids = dict.fromkeys([*wanted, *self._lines])
        data = b"".join([_header_line(self.header), *(self._lines[id_] for id_ in ids)])
        with _told(self.finished):
            _replace(self.finished, lzma.compress(data, preset=_PRESET))
            self.recording.unlink(missing_ok=True)
        self._size = None
        return self.finished

    def _begin(self) -> None:
        """The file for recording, with what a finished one holds."""
        data = b"".join([_header_line(self.header), *self._lines.values()])
        self.recording.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.recording, data)
        self._size = len(data)


def _header_line(header: Header) -> bytes:
    return header.model_dump_json().encode() + b"\n"


def _written(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    """Writes a file so that there is never half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _written(file, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"the pool {str(path)!r} cannot be written: {error.strerror or error}"
        raise InvalidRequest(message, field="out", value=str(path)) from None


def _changed(path: Path) -> InvalidRequest:
    message = f"somebody else writes to {path}; let only one process record a pool"
    return InvalidRequest(message, field="out", value=str(path))
