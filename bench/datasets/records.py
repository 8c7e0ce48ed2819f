"""Reads entries of JSON-lines, JSON and CSV files; whatever is wrong with one is named by file, line and field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from orchestrator.errors import InvalidRequest

_JSON_NAMES = {bool: "true or false", dict: "an object", list: "a list", float: "a number", int: "a number"}


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a file.

    Attributes:
        path: The file.
        place: Where in it, for instance ``"line 3"``.
        number: The line, or the position of the entry, from 1.
        values: Its fields as they were read.
    """

    path: Path
    place: str
    number: int
    values: Mapping[str, object]

    def text(self, *names: str) -> str:
        """The text of the first of these fields that is there; it has more than blanks in it.

        Raises:
            InvalidRequest: None is there, or it is no such text.
        """
        name, value = self._found(names)
        if not isinstance(value, str):
            self.refuse(name, f"is {_described(value)} and should be text", value)
        if not value.strip():
            self.refuse(name, "is empty", value)
        if not _is_encodable(value):
            self.refuse(name, "holds half a character (a lone surrogate)", None)
        return value

    def texts(self, *names: str) -> tuple[str, ...]:
        """The list of texts that is the first of these fields that is there."""
        name, value = self._found(names)
        if not isinstance(value, list) or not all(isinstance(part, str) and _is_encodable(part) for part in value):
            self.refuse(name, "should be a list of texts", None)
        return tuple(value)

    def integer(self, *names: str) -> int:
        """The whole number that is the first of these fields that is there."""
        name, value = self._found(names)
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(name, f"is {_described(value)} and should be a whole number", value)
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        _, value = self._found((name,))
        if not isinstance(value, bool):
            self.refuse(name, f"is {_described(value)} and should be true or false", value)
        return value

    def label(self, *names: str) -> str:
        """A text or a whole number, as text: an identifier, or an answer that may be written either way."""
        name, value = self._found(names)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def has(self, *names: str) -> bool:
        """Whether one of these fields is there and not null."""
        return any(self.values.get(name) is not None for name in names)

    def refuse(self, name: str, reason: str, value: object) -> NoReturn:
        """Raises `InvalidRequest` about one field."""
        raise InvalidRequest(f"{self.path}, {self.place}: field {name!r} {reason}", field=name, value=value)

    def _found(self, names: tuple[str, ...]) -> tuple[str, object]:
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        wanted = " or ".join(map(repr, names))
        there = ", ".join(sorted(map(str, self.values)))[:200] or "none"
        raise InvalidRequest(
            f"{self.path}, {self.place}: field {wanted} is missing; fields there: {there}", field=names[0]
        )


def read_json_records(path: Path) -> list[Record]:
    """Objects of a file with one in each line, or with one list of them.

    Raises:
        InvalidRequest: There is no such file, or it holds something else, or nothing.
    """
    data = _bytes_of(path)
    if data.lstrip()[:1] == b"[":
        entries = _json(path, "the list", _decoded(path, "the file", data))
        if not isinstance(entries, list):
            raise InvalidRequest(f"{path} is no list of objects", field="path", value=str(path))
        places = ((f"entry {number}", number, entry) for number, entry in enumerate(entries, 1))
    else:
        lines = ((f"line {number}", number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())
        places = ((place, number, _json(path, place, _decoded(path, place, line))) for place, number, line in lines)
    return _kept(path, [_record(path, place, number, entry) for place, number, entry in places])


def read_csv_records(path: Path) -> list[Record]:
    """Rows of a CSV file whose first line names the columns; cells that a row lacks are missing fields.

    Raises:
        InvalidRequest: There is no such file, or it is no CSV, or has no rows.
    """
    reader = csv.DictReader(io.StringIO(_decoded(path, "the file", _bytes_of(path)), newline=""))
    records = []
    try:
        for row in reader:
            values = {name: value for name, value in row.items() if name is not None and value is not None}
            records.append(Record(path, f"line {reader.line_num}", reader.line_num, values))
    except csv.Error as error:
        raise _unreadable(path, f"line {reader.line_num} is no CSV: {error}") from None
    return _kept(path, records)


def _kept(path: Path, records: list[Record]) -> list[Record]:
    if not records:
        raise _unreadable(path, "it holds no entries")
    return records


def _record(path: Path, place: str, number: int, entry: object) -> Record:
    if not isinstance(entry, dict):
        raise _unreadable(path, f"{place} is {_described(entry)} and should be an object")
    return Record(path, place, number, entry)


def _bytes_of(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InvalidRequest(f"{path} is a folder; name the file in it", field="path", value=str(path))
        if not path.is_file():
            raise InvalidRequest(f"there is no file {str(path)!r}", field="path", value=str(path))
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise _unreadable(path, error.strerror or "input or output failed") from None
    except ValueError as error:  # a null character
        raise _unreadable(path, str(error)) from None


def _decoded(path: Path, place: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        reason = (
            f"{place} is no UTF-8 text (byte {error.start}); unpack a compressed file, export a Parquet one as JSONL"
        )
        raise _unreadable(path, reason) from None


def _json(path: Path, place: str, text: str) -> object:
    try:
        value: object = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"{place} is no JSON, or cut off: {str(error)[:200]}") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _unreadable(path: Path, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path} cannot be used: {reason}", field="path", value=str(path))


def _described(value: object) -> str:
    return _JSON_NAMES.get(type(value), "text" if isinstance(value, str) else "null")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
