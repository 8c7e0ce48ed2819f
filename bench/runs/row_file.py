"""The file of rows that a run adds to: one process at a time, resumed by the keys of what it holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from orchestrator.bench.runs.rows import Row, append_rows, read_rows
from orchestrator.errors import InvalidRequest, JobConflict, StoreFailed

FLUSH_EVERY_S = 1.0


class RowFile:
    """Rows at the end of a file, in writes of many.

    Args:
        path: Made if it does not exist.
        is_read_only: It is looked at only, and may be missing.

    Attributes:
        keys: Of the rows that it holds, those that are not yet written included.
        meanings: What each label of each suite stands for in it: the policy and its parameters.

    Raises:
        InvalidRequest: The file cannot be opened, or holds something else than rows.
        JobConflict: Another process writes to it.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        self.path = path
        self.keys: set[tuple[str, ...]] = set()
        self.meanings: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}  # Any: JSON values
        self._waiting: list[Row] = []
        self._flushed_at = time.monotonic()
        self._lock = None if is_read_only else _locked(path)
        try:
            for row in self:
                self._note(row)
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._unlock()

    def __iter__(self) -> Iterator[Row]:
        """The rows in the file.

        Raises:
            InvalidRequest: It holds something else.
        """
        if self._lock is None and not self.path.exists():
            return
        try:
            yield from read_rows(self.path)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"cannot read {self.path}: {error}", field="out", value=str(self.path)) from None

    def add(self, row: Row) -> None:
        """Adds a row, which is in the file a second later at most if `flush` is called that often.

        Raises:
            StoreFailed: Rows cannot be written.
        """
        self._note(row)
        self._waiting.append(row)
        if time.monotonic() - self._flushed_at >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            StoreFailed: It cannot be written.
        """
        self._flushed_at = time.monotonic()
        if not self._waiting:
            return
        try:
            append_rows(self.path, self._waiting)
        except OSError as error:
            raise StoreFailed(f"cannot write to {self.path}: {error.strerror}", path=str(self.path)) from error
        self._waiting.clear()

    def drop(self, is_unwanted: Callable[[Row], bool]) -> int:
        """Takes rows out of the file.

        Returns:
            How many.

        Raises:
            StoreFailed: The file cannot be written; it is as it was.
        """
        self.flush()
        kept: list[Row] = []
        dropped: list[Row] = []
        for row in self:
            (dropped if is_unwanted(row) else kept).append(row)
        if dropped:
            self._replace(kept)
            self.keys.difference_update(row.key for row in dropped)
        return len(dropped)

    def _replace(self, rows: list[Row]) -> None:
        other = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with contextlib.suppress(FileNotFoundError):
                other.unlink()
            append_rows(other, rows)
            lock = _locked(other)
            other.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                other.unlink()
            raise StoreFailed(f"cannot write to {self.path}: {error.strerror}", path=str(self.path)) from error
        self._unlock()
        self._lock = lock

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _note(self, row: Row) -> None:
        self.keys.add(row.key)
        self.meanings.setdefault((row.suite, row.label), (row.policy, row.params))


def _locked(path: Path) -> int:
    """A descriptor that holds the file's lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot write --out {str(path)!r}: {reason}", field="out", value=str(path)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise JobConflict(f"another process writes to {str(path)!r}", path=str(path)) from None
    except OSError:  # not a file system with locks
        return descriptor
    return descriptor
