"""Reads a server-sent event stream: bytes in, the data of whole events out, with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

MAX_EVENT_BYTES = 4 << 20
"""Far above any token with its alternatives; a server that sends more is broken or hostile."""

_KNOWN_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_DATA = b"data: "
_SHOWN_CHARS = 120


class MalformedStream(Exception):
    """The bytes are no event stream, or an event is no chunk of a completion; the message says why."""


class EventReader:
    """Cuts a stream (WHATWG HTML, section 9.2) into the data of its events; comments and empty events are left out.

    Args:
        max_event_bytes: Longest event.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._problem: MalformedStream | None = None

    def feed(self, part: bytes) -> list[bytes]:
        """Takes what was read; the events that it completes.

        Raises:
            MalformedStream: A line is no field, or an event is too long. Events that came before it in the same part
                are given first; it is raised by the next call of any method.
        """
        self._check()
        text = self._rest + part if self._rest else part
        events = self._plain_events(text)
        if events is None:
            events = []
            try:
                self._take_lines(text, events)
            except MalformedStream as problem:
                self._problem = problem
        if len(self._rest) + self._data_bytes > self._max_event_bytes:
            self._problem = MalformedStream(f"one event is longer than {self._max_event_bytes:,} bytes")
        if not events:
            self._check()
        return events

    def finish(self) -> list[bytes]:
        """The stream is over: a last event without its empty line.

        Raises:
            MalformedStream: As of `feed`.
        """
        self._check()
        events = [b"\n".join(self._data)] if self._data else []
        self._data, self._data_bytes = [], 0
        return events

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _plain_events(self, text: bytes) -> list[bytes] | None:
        """The usual case: every event is one line of data. None if this is another, and nothing has been taken."""
        end = text.rfind(b"\n\n")
        if self._data or end < 0:
            return None
        blocks = text[:end].split(b"\n\n")
        events = [block[len(_DATA) :] for block in blocks if block.startswith(_DATA)]
        num_newlines = text.count(b"\n", 0, end)
        if len(events) < len(blocks) or num_newlines > 2 * (len(blocks) - 1) or text.find(b"\r", 0, end) >= 0:
            return None
        self._rest = text[end + 2 :]
        return events

    def _take_lines(self, text: bytes, events: list[bytes]) -> None:
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")  # the line without its end
            if line:
                value = _data_of(line)
                if value is not None:
                    self._data.append(value)
                    self._data_bytes += len(value)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0


async def events_of(chunks: AsyncIterator[bytes], *, max_event_bytes: int = MAX_EVENT_BYTES) -> AsyncIterator[str]:
    """The data of each event of a stream, as text.

    Raises:
        MalformedStream: A line is no field, an event is too long, or its data is not UTF-8.
    """
    reader = EventReader(max_event_bytes=max_event_bytes)
    async for chunk in chunks:
        for event in reader.feed(chunk):
            yield text_of(event)
    for event in reader.finish():
        yield text_of(event)


def text_of(event: bytes) -> str:
    """The data of an event as text.

    Raises:
        MalformedStream: It is not UTF-8.
    """
    try:
        return event.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedStream("an event is not UTF-8") from error


def _data_of(line: bytes) -> bytes | None:
    if line.startswith(b":"):
        return None
    name, _, value = line.partition(b":")
    if name not in _KNOWN_FIELDS:
        raise MalformedStream(f"a line is no event field: {excerpt(line.decode('utf-8', 'replace'))}")
    return value.removeprefix(b" ") if name == b"data" else None


def excerpt(text: str) -> str:
    """The beginning of a text, quoted, for an error message."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
