"""A file that grows over several attempts and never grows beyond what was promised."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from orchestrator.workers.catalogue.progress import Report, SourceFailed

FileOpener = Callable[[Path], BinaryIO]
"""Opens a file for appending, creating it; tests pass one whose writes fail."""


def open_for_append(path: Path) -> BinaryIO:
    """The file itself."""
    return cast("BinaryIO", path.open("ab", buffering=0))  # typeshed: unbuffered files are FileIO, which is a BinaryIO


class PartialFile:
    """Bytes of a model in the order of the finished file; what is there survives a crash and is continued.

    Args:
        path: Created if missing.
        size_bytes: Length of the finished file; more is refused.
        report: Told the length after every write.
        opener: How the file is opened.
    """

    def __init__(self, path: Path, *, size_bytes: int, report: Report, opener: FileOpener = open_for_append) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.report = report
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = opener(path)
        self.length = path.stat().st_size
        if self.length > size_bytes:
            self.truncate(0)

    @property
    def is_complete(self) -> bool:
        """Whether it has the promised length."""
        return self.length == self.size_bytes

    def append(self, data: bytes) -> None:
        """Adds bytes at the end.

        Raises:
            SourceFailed: The source sends more than was promised.
            OSError: Disk full, or the like.
        """
        if self.length + len(data) > self.size_bytes:
            self.truncate(0)
            raise SourceFailed(f"sends more than the pinned {self.size_bytes:,} bytes")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.length += len(data)
        self.report(self.length)

    def truncate(self, length: int) -> None:
        """Drops all bytes after ``length``."""
        os.truncate(self.path, length)
        self.length = length
        self.report(length)

    def flush(self) -> None:
        """Makes what was appended durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Keeps the file for the next attempt."""
        self._file.close()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
