"""Request traces as arrays: reads those of Azure, BurstGPT and Mooncake, a million rows in seconds.

    Azure LLM    CSV   TIMESTAMP (date and time), ContextTokens, GeneratedTokens
    BurstGPT     CSV   Timestamp (seconds), Request tokens, Response tokens
    Mooncake     JSONL timestamp (milliseconds), input_length, output_length, hash_ids

Other columns are ignored. A request that was answered with 0 tokens failed when the trace was taken; it is left out.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvalidRequest

BLOCK_TOKENS = 512
"""Tokens that one hash id of a Mooncake trace stands for (Qin et al., 2025, FAST)."""
MAX_TOKENS = 10_000_000
"""More input or output tokens than this are taken for a broken row."""

_MAX_LINE_CHARS = 1 << 20
_SHOWN_CHARS = 60

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order they arrived.

    Attributes:
        arrivals_s: Seconds after the first request; ascending, shape (n,).
        input_tokens: At least 1, shape (n,).
        output_tokens: At least 1, shape (n,).
        shared_tokens: Of the input, how many an earlier request of the trace began with (whole blocks), shape (n,);
            zeros where the trace does not say.
        name: What people call it: the file's name.
        notes: What was changed or left out while it was read, one sentence each.
    """

    arrivals_s: Numbers
    input_tokens: Counts
    output_tokens: Counts
    shared_tokens: Counts
    name: str = "trace"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrivals_s)

    @property
    def duration_s(self) -> float:
        """From the first request to the last."""
        return float(self.arrivals_s[-1]) if len(self) else 0.0

    @property
    def mean_rate(self) -> float:
        """Requests per second; 0 where all arrived at once, which says nothing about a rate."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else 0.0

    def window_rates(self, window_s: float) -> Numbers:
        """Requests per second in each whole window; in the whole trace if it is shorter than a window."""
        if self.duration_s < window_s:
            return np.array([self.mean_rate])
        num_windows = int(self.duration_s // window_s)
        counts = np.bincount((self.arrivals_s // window_s).astype(np.int64), minlength=num_windows)[:num_windows]
        return counts / window_s


class _Format(NamedTuple):
    name: str
    time: str
    inputs: str
    outputs: str

    @property
    def columns(self) -> tuple[str, str, str]:
        return (self.time, self.inputs, self.outputs)


_AZURE = _Format("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURST_GPT = _Format("BurstGPT", "Timestamp", "Request tokens", "Response tokens")
_MOONCAKE = _Format("Mooncake", "timestamp", "input_length", "output_length")
_FORMATS = (_AZURE, _BURST_GPT, _MOONCAKE)


class _Columns(NamedTuple):
    """Values as they were written, and the lines they were written on."""

    times: list[Any]  # Any: texts or JSON values
    inputs: list[Any]
    outputs: list[Any]
    lines: Sequence[int]
    hashes: list[Sequence[int]]


def read_trace(path: Path, *, limit: int | None = None) -> Trace:
    """Reads a trace; rows out of order are sorted, which a note says.

    Args:
        path: The file.
        limit: Most rows to read; None for all.

    Raises:
        InvalidRequest: The file cannot be read, has no request that was answered, has none of the known columns, or
            a value in it cannot be used; names file, line and column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline(_MAX_LINE_CHARS)
            stream.seek(0)
            form = _MOONCAKE if first.lstrip().startswith("{") else _csv_format(path, first)
            columns = (
                _json_columns(path, stream, limit) if form is _MOONCAKE else _csv_columns(path, stream, form, limit)
            )
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InvalidRequest):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot read {str(path)!r}: {reason}", field="trace", value=str(path)) from error
    return _trace(path, form, columns)


def trace_of(
    arrivals_s: Iterable[float], input_tokens: Iterable[int], output_tokens: Iterable[int], *, name: str = "trace"
) -> Trace:
    """A trace from numbers; they are checked as those of a file are."""
    times, inputs, outputs = list(arrivals_s), list(input_tokens), list(output_tokens)
    columns = _Columns(times, inputs, outputs, list(range(1, len(times) + 1)), [])
    return _trace(Path(name), _BURST_GPT, columns)


def _csv_format(path: Path, head: str) -> _Format:
    names = [name.strip() for name in next(csv.reader([head]), [])]
    for form in _FORMATS[:2]:
        if set(form.columns) <= set(names):
            return form
    known = "; ".join(f"{form.name} ({', '.join(form.columns)})" for form in _FORMATS)
    found = ", ".join(names)[:300] or "nothing"
    raise InvalidRequest(
        f"{str(path)!r} is no trace that is understood; its columns: {found}; known traces, by their columns: {known}",
        field="trace",
        value=str(path),
    )


def _csv_columns(path: Path, stream: Iterable[str], form: _Format, limit: int | None) -> _Columns:
    reader = csv.reader(stream)
    names = [name.strip() for name in next(reader)]
    places = [names.index(name) for name in form.columns]
    needed = max(places) + 1
    rows = list(islice(reader, limit))
    lines: Sequence[int] = range(2, len(rows) + 2)
    if reader.line_num != len(rows) + 1 or not all(rows):  # cells with line breaks, or empty lines
        rows, lines = _numbered(path, limit)
    if (short := next((at for at, row in enumerate(rows) if len(row) < needed), -1)) >= 0:
        row = rows[short]
        _refuse(path, lines[short], form.columns[-1], ",".join(row), f"has {len(row)} of {len(names)} columns")
    times, inputs, outputs = ([row[place] for row in rows] for place in places)
    return _Columns(times, inputs, outputs, lines, [])


def _numbered(path: Path, limit: int | None) -> tuple[list[list[str]], list[int]]:
    """Rows that are not empty, and the lines they end on."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        next(reader)
        pairs = list(islice(((row, reader.line_num) for row in reader if row), limit))
    return [row for row, _ in pairs], [line for _, line in pairs]


def _json_columns(path: Path, stream: Iterable[str], limit: int | None) -> _Columns:
    lines: list[int] = []
    columns = _Columns([], [], [], lines, [])
    rows = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    for number, line in islice(rows, limit):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            _refuse(path, number, "trace", line, "is no JSON object")
        for column, values in zip(_MOONCAKE.columns, columns[:3], strict=True):
            value = row.get(column)
            if isinstance(value, bool) or not isinstance(value, int | float):
                _refuse(path, number, column, value, "is no number")
            values.append(value)
        ids = row.get("hash_ids") or []
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            _refuse(path, number, "hash_ids", ids, "is no list of whole numbers")
        lines.append(number)
        columns.hashes.append(ids)
    return columns


def _trace(path: Path, form: _Format, columns: _Columns) -> Trace:
    if not columns.lines:
        raise InvalidRequest(
            f"{str(path)!r} has no requests; a plan needs at least one", field="trace", value=str(path)
        )
    lines = columns.lines
    seconds = _dates if form is _AZURE else _floats
    complaint = "is no date and time" if form is _AZURE else "is no time"
    times = _converted(path, form.time, columns.times, lines, convert=seconds, complaint=complaint)
    inputs = _tokens(path, form.inputs, columns.inputs, lines)
    outputs = _tokens(path, form.outputs, columns.outputs, lines)
    shared = _shared_tokens(columns.hashes, inputs)
    answered = outputs > 0
    if not answered.any():
        raise InvalidRequest(
            f"no request of {str(path)!r} was answered: column {form.outputs!r} is 0 in all {len(lines):,} rows",
            field="trace",
            value=str(path),
        )
    notes = []
    if failed := int((~answered).sum()):
        notes.append(f"{failed:,} of {len(lines):,} requests were answered with 0 tokens and are left out")
    times, inputs, outputs, shared = times[answered], inputs[answered], outputs[answered], shared[answered]
    if back := int((np.diff(times) < 0).sum()):
        notes.append(f"{back:,} requests are earlier than the line before; the trace was sorted by time")
        order = np.argsort(times, kind="stable")
        times, inputs, outputs, shared = times[order], inputs[order], outputs[order], shared[order]
    scale = 1e-3 if form is _MOONCAKE else 1.0
    arrivals_s = (times - times[0]) * scale
    return Trace(arrivals_s, np.maximum(inputs, 1), outputs, shared, path.name, tuple(notes))


def _tokens(path: Path, column: str, values: list[Any], lines: Sequence[int]) -> Counts:
    numbers = _converted(path, column, values, lines, convert=_floats, complaint="is no number of tokens")
    bad = np.flatnonzero((numbers < 0) | (numbers > MAX_TOKENS) | (numbers != np.floor(numbers)))
    if bad.size:
        at = int(bad[0])
        _refuse(path, lines[at], column, values[at], f"is no number of tokens from 0 to {MAX_TOKENS:,}")
    return numbers.astype(np.int64)


def _converted(
    path: Path,
    column: str,
    values: list[Any],
    lines: Sequence[int],
    *,
    convert: Callable[[list[Any]], Numbers],
    complaint: str,
) -> Numbers:
    """All at once; where that fails, one by one to find the line."""
    try:
        numbers = convert(values)
        bad = np.flatnonzero(~np.isfinite(numbers))
    except (ValueError, TypeError, OverflowError):
        bad = np.array([at for at, value in enumerate(values) if not _is_convertible(convert, value)])
        numbers = np.empty(0)
    if bad.size:
        at = int(bad[0])
        _refuse(path, lines[at], column, values[at], complaint)
    return numbers


def _is_convertible(convert: Callable[[list[Any]], Numbers], value: Any) -> bool:  # Any: a text or a JSON value
    try:
        return bool(np.isfinite(convert([value])).all())
    except (ValueError, TypeError, OverflowError):
        return False


def _floats(values: list[Any]) -> Numbers:
    return np.array(values, dtype=np.float64)


def _dates(values: list[str]) -> Numbers:
    """Seconds since 1970; a zone at the end ("+00:00", "Z") is taken for UTC, since only differences count."""
    zone = next((zone for zone in ("Z", "+00:00") if values[0].endswith(zone)), "")
    texts = np.array([value.removesuffix(zone) for value in values] if zone else values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of other zones and reads them all the same
        try:
            moments = texts.astype("datetime64[ns]")
        except Warning as error:
            raise ValueError(str(error)) from None
    if np.isnat(moments).any():
        return np.where(np.isnat(moments), np.nan, 0.0)
    return np.asarray((moments - moments[0]).astype(np.float64) / 1e9)


def _shared_tokens(hashes: list[Sequence[int]], inputs: Counts) -> Counts:
    """Tokens of leading blocks that an earlier request had too, as if every block were kept for ever."""
    shared = np.zeros(len(inputs), dtype=np.int64)
    seen: set[int] = set()
    for at, ids in enumerate(hashes):
        length = next((place for place, block in enumerate(ids) if block not in seen), len(ids))
        shared[at] = length * BLOCK_TOKENS
        seen.update(ids)
    return np.minimum(shared, np.maximum(inputs - 1, 0))


def _refuse(path: Path, line: int, column: str, value: Any, reason: str) -> NoReturn:  # Any: whatever was found
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "..."
    raise InvalidRequest(
        f"{str(path)!r}, line {line}, column {column!r}: {shown} {reason}", field=column, value=shown, line=line
    )
