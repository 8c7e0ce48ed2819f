"""Records in the log of a cluster's job: how results come back from where nothing is shared.

A job's output is one text that its own process, libraries and Ray write to. Records are lines in it that begin with a
mark that holds the job's id, cut into pieces so that no line is long. Whoever reads the log from its beginning gets
every record once, in order; a record that a killed process left unfinished is none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import StoreFailed

PIECE_CHARS = 16_000
"""Ray sends a log in pieces of about 20,000 characters, and longer lines whole."""

_MAX_RECORD_CHARS = 256 << 20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Json = dict[str, Any]  # Any: JSON values


def _mark(job_id: str) -> str:
    return f"::ttc {job_id} "


class JobLogWriter:
    """Writes records; one write to the file for each piece, so that nothing of other writers comes between.

    Args:
        job_id: Of the job whose output ``fd`` is.
        fd: A file that is appended to.
    """

    def __init__(self, job_id: str, *, fd: int = 1) -> None:
        self._mark = _mark(job_id)
        self._fd = fd
        self._num_written = 0

    def write_record(self, kind: str, **values: object) -> None:
        """Adds a record.

        Raises:
            StoreFailed: It could not be written, for instance because the disk is full.
        """
        text = json.dumps({"kind": kind, **values}, ensure_ascii=True, default=str)
        pieces = [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]
        for place, piece in enumerate(pieces, 1):
            line = f"{self._mark}{self._num_written} {place}/{len(pieces)} {piece}\n".encode()
            try:
                is_whole = os.write(self._fd, line) == len(line)
            except OSError as error:
                raise StoreFailed(f"cannot write to the job's log: {error.strerror}") from error
            if not is_whole:
                raise StoreFailed("cannot write to the job's log: the disk is full")
        self._num_written += 1

    def write(self, row: Json) -> None:
        """Adds a result; so that this is a `ResultSink`."""
        self.write_record("row", row=row)


class JobLogReader:
    """Takes a log apart, piece by piece as it comes.

    Args:
        job_id: Of the job that wrote it.
    """

    def __init__(self, job_id: str) -> None:
        self._mark = _mark(job_id)
        self._rest = ""
        self._pieces: list[str] = []
        self._number = -1

    def take(self, text: str) -> Iterator[Json | str]:
        """What ``text`` completes: records, and lines of others without their line ends."""
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > _MAX_RECORD_CHARS:
            self._rest = ""
        for line in lines:
            yield from self._taken(line)

    def _taken(self, line: str) -> Iterator[Json | str]:
        other, mark, rest = line.partition(self._mark)
        if not mark:
            yield _ESCAPES.sub("", line.rstrip("\r"))
            return
        if other:  # somebody's line had not ended
            yield _ESCAPES.sub("", other)
        record = self._joined(rest)
        if record is not None:
            yield record

    def _joined(self, rest: str) -> Json | None:
        """The record that this piece completes."""
        found = re.match(r"(\d+) (\d+)/(\d+) ", rest)
        if found is None:
            return None
        number, place, num_pieces = map(int, found.groups())
        if place == 1:
            self._number, self._pieces = number, []
        if number != self._number or place != len(self._pieces) + 1 or place > num_pieces:
            return None
        self._pieces.append(rest[found.end() :])
        if place < num_pieces:
            return None
        try:
            record = json.loads("".join(self._pieces))
        except (ValueError, RecursionError):
            return None
        finally:
            self._pieces = []
        return record if isinstance(record, dict) else None
