"""Recorded arrivals: reads request traces of Azure, Mooncake and BurstGPT, told apart by their columns.

    Azure LLM    CSV   TIMESTAMP (date and time), ContextTokens, GeneratedTokens
    BurstGPT     CSV   Timestamp (seconds), Request tokens, Response tokens
    Mooncake     JSONL timestamp (milliseconds), input_length, output_length, hash_ids

Other columns are ignored. A request that was answered with 0 tokens failed when the trace was taken; it is left out.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.bench.load.arrivals import MAX_TOKENS, Arrival
from orchestrator.errors import InvalidRequest

BLOCK_TOKENS = 512
"""Tokens that one hash id of a Mooncake trace stands for (Qin et al., 2025, FAST)."""

_MAX_LINE_BYTES = 1 << 20
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Which part of a trace is wanted, and how fast it runs.

    Attributes:
        start_s: Seconds after the first request of the trace.
        duration_s: Seconds of the trace from there; None for all.
        limit: Most requests; None for all.
        speed: How many seconds of the trace pass in one second.
    """

    start_s: float = 0.0
    duration_s: float | None = None
    limit: int | None = None
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class _Format:
    """Names of the columns, and how a time is read."""

    name: str
    time: str
    inputs: str
    outputs: str
    seconds: Callable[[Any], float]  # Any: a cell's text or a JSON value

    @property
    def columns(self) -> tuple[str, str, str]:
        return (self.time, self.inputs, self.outputs)


def _number(value: Any) -> float:  # Any: a cell's text or a JSON value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(value)
    return float(value)


def _date(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment - datetime(1970, 1, 1, tzinfo=moment.tzinfo)).total_seconds()


_AZURE = _Format("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", _date)
_BURST_GPT = _Format("BurstGPT", "Timestamp", "Request tokens", "Response tokens", _number)
_MOONCAKE = _Format("Mooncake", "timestamp", "input_length", "output_length", lambda value: _number(value) / 1000)
_FORMATS = (_AZURE, _BURST_GPT, _MOONCAKE)


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a trace: its number, and its values by column."""

    path: Path
    line: int
    values: Mapping[str, Any]  # Any: texts or JSON values

    def error(self, column: str, reason: str) -> InvalidRequest:
        shown = repr(self.values.get(column))
        shown = shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "..."
        return _broken(self.path, self.line, f"column {column!r}: {shown} {reason}", column)

    def seconds(self, form: _Format) -> float:
        try:
            value = form.seconds(self._value(form.time))
        except (ValueError, TypeError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise self.error(form.time, "is no time" if form is not _AZURE else "is no date and time")
        return value

    def tokens(self, column: str) -> int:
        try:
            number = _number(self._value(column))
        except (ValueError, TypeError, OverflowError):
            number = math.nan
        if not 0 <= number <= MAX_TOKENS or number != int(number):
            raise self.error(column, f"is no number of tokens from 0 to {MAX_TOKENS:,}")
        return int(number)

    def blocks(self) -> tuple[int, ...]:
        ids = self.values.get("hash_ids") or []
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            raise self.error("hash_ids", "is no list of whole numbers")
        return tuple(ids)

    def _value(self, column: str) -> Any:  # Any: a text or a JSON value
        if column not in self.values:
            raise _broken(self.path, self.line, f"column {column!r} is missing", column)
        return self.values[column]


def read_trace(path: Path, excerpt: Excerpt | None = None) -> Iterator[Arrival]:
    """The arrivals of a trace, in seconds from the start of the excerpt; reads no further than it has to.

    Raises:
        InvalidRequest: The file cannot be read, has none of the known columns, or a value in it cannot be used or goes
            back in time; names file, line and column.
    """
    try:
        with path.open("rb") as stream:
            yield from _arrivals(_rows(path, stream), excerpt or Excerpt())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot read {str(path)!r}: {reason}", field="trace", value=str(path)) from error


def _arrivals(rows: Iterator[tuple[_Format, _Row]], excerpt: Excerpt) -> Iterator[Arrival]:
    first_s: float | None = None
    last_s = -math.inf
    count = 0
    for form, row in rows:
        time_s = row.seconds(form)
        if time_s < last_s:
            raise row.error(form.time, "is earlier than the line before; sort the trace by this column")
        first_s = time_s if first_s is None else first_s
        last_s = time_s
        at_s = time_s - first_s - excerpt.start_s
        if excerpt.duration_s is not None and at_s >= excerpt.duration_s:
            return
        outputs = row.tokens(form.outputs)
        if at_s >= 0 and outputs:
            yield Arrival(at_s / excerpt.speed, row.tokens(form.inputs), outputs, row.blocks())
            count += 1
            if count == excerpt.limit:
                return


def _rows(path: Path, stream: BinaryIO) -> Iterator[tuple[_Format, _Row]]:
    lines = _lines(path, stream)
    number, head = next(lines, (1, ""))
    if head.startswith("{"):
        yield _MOONCAKE, _json_row(path, number, head)
        yield from ((_MOONCAKE, _json_row(path, number, line)) for number, line in lines)
        return
    columns = [column.strip() for column in _cells(path, number, head)]
    form = next((form for form in _FORMATS[:2] if set(form.columns) <= set(columns)), None)
    if form is None:
        known = "; ".join(f"{form.name} ({', '.join(form.columns)})" for form in _FORMATS)
        found = ", ".join(columns) or "nothing"
        reason = f"no trace that is understood. Its columns: {found[:300]}. Known traces, by their columns: {known}"
        raise _broken(path, number, reason, "trace")
    for number, line in lines:
        cells = _cells(path, number, line)
        yield form, _Row(path, number, dict(zip(columns, cells, strict=False)))


def _lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty."""
    number = 0
    while line := stream.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise _broken(path, number, f"more than {_MAX_LINE_BYTES:,} bytes", "trace")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise _broken(path, number, f"not UTF-8 at byte {error.start}", "trace") from None
        if text:
            yield number, text


def _cells(path: Path, number: int, line: str) -> Sequence[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise _broken(path, number, f"no CSV: {error}", "trace") from None


def _json_row(path: Path, number: int, line: str) -> _Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _broken(path, number, f"no JSON: {error}", "trace") from None
    if not isinstance(value, dict):
        raise _broken(path, number, f"must be an object, not {type(value).__name__}", "trace")
    return _Row(path, number, value)


def _broken(path: Path, number: int, reason: str, field: str) -> InvalidRequest:
    return InvalidRequest(f"{path}, line {number}: {reason}", field=field, value=None, line=number)
