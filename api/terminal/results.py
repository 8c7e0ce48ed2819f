"""The JSON Lines file that many results go to: whole lines only, also when the process is killed, and resumable."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any, Protocol, Self

from orchestrator.errors import InvalidRequest, JobConflict, StoreFailed

Json = dict[str, Any]  # Any: JSON values


class ResultSink(Protocol):
    """Takes results, one row each."""

    def write(self, row: Json) -> None:
        """Adds a row, whole or not at all."""
        ...


class StandardOutput:
    """Rows on stdout."""

    def write(self, row: Json) -> None:
        """Prints a row at once."""
        sys.stdout.write(_line(row))
        sys.stdout.flush()


class ResultFile:
    """Rows at the end of a file; one process at a time.

    Args:
        path: Made if it does not exist. A last line that a killed process left unfinished is completed or removed.

    Attributes:
        rows: What the file holds already, by id.

    Raises:
        InvalidRequest: It cannot be opened, or holds something else than results.
        JobConflict: Another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidRequest(f"cannot write --out {str(path)!r}: {reason}", field="out", value=str(path)) from error
        try:
            self._lock()
            self.rows = self._recover()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, row: Json) -> None:
        """Adds a row with one write to the end of the file.

        Raises:
            StoreFailed: It could not be written, for instance because the disk is full; the file has no part of it.
        """
        data = _line(row).encode()
        length = os.fstat(self._fd).st_size
        try:
            num_written = os.write(self._fd, data)
        except OSError as error:
            raise StoreFailed(f"cannot write to {str(self._path)!r}: {error.strerror}", path=str(self._path)) from error
        if num_written < len(data):
            os.ftruncate(self._fd, length)
            raise StoreFailed(f"cannot write to {str(self._path)!r}: the disk is full", path=str(self._path))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobConflict(f"another process writes to {str(self._path)!r}", path=str(self._path)) from None
        except OSError:  # not a file system with locks, or no plain file
            return

    def _recover(self) -> dict[str, Json]:
        if not os.path.isfile(self._fd):  # a pipe or /dev/stdout holds nothing to resume from
            return {}
        with open(self._fd, "rb", closefd=False) as stream:
            *lines, rest = stream.read().split(b"\n")
        rows = [self._row(line, number) for number, line in enumerate(lines, 1) if line.strip()]
        if rest:
            if (row := _parsed(rest)) is not None:
                os.write(self._fd, b"\n")
                rows.append(row)
            elif not lines and not rest.startswith(b'{"id"'):
                raise self._foreign(1)
            else:
                os.ftruncate(self._fd, sum(len(line) + 1 for line in lines))
        return {str(row["id"]): row for row in rows}

    def _row(self, line: bytes, number: int) -> Json:
        row = _parsed(line)
        if row is None:
            raise self._foreign(number)
        return row

    def _foreign(self, number: int) -> InvalidRequest:
        return InvalidRequest(
            f"line {number} of --out {str(self._path)!r} is no result of ours, so nothing is added to that file; name "
            "another one",
            field="out",
            value=str(self._path),
        )


def _parsed(line: bytes) -> Json | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and "id" in row and "status" in row else None


def _line(row: Json) -> str:
    return json.dumps(row, ensure_ascii=True, default=str) + "\n"
