"""Reads a server-sent event stream: bytes in, one text per event out, with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

MAX_EVENT_BYTES = 4 << 20
"""Far above any token with its alternatives; a server that sends more is broken or hostile."""

_KNOWN_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_SHOWN_CHARS = 120


class MalformedStream(Exception):
    """The bytes are no event stream, or an event is no chunk of a completion; the message says why."""


async def events_of(chunks: AsyncIterator[bytes], *, max_event_bytes: int = MAX_EVENT_BYTES) -> AsyncIterator[str]:
    """The data of each event of a stream (WHATWG HTML, section 9.2), comments and empty events left out.

    Raises:
        MalformedStream: A line is no field, an event is too long, or its data is not UTF-8.
    """
    buffer, data, held_bytes = bytearray(), list[bytes](), 0
    async for chunk in chunks:
        buffer += chunk
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end]).removesuffix(b"\r")
            del buffer[: end + 1]
            if line:
                value = _data_of(line)
                if value is not None:
                    data.append(value)
                    held_bytes += len(value)
            elif data:
                yield _decoded(data)
                data, held_bytes = [], 0
        if len(buffer) + held_bytes > max_event_bytes:
            raise MalformedStream(f"one event is longer than {max_event_bytes:,} bytes")
    if data:  # a last event without its empty line
        yield _decoded(data)


def _data_of(line: bytes) -> bytes | None:
    if line.startswith(b":"):
        return None
    name, _, value = line.partition(b":")
    if name not in _KNOWN_FIELDS:
        raise MalformedStream(f"a line is no event field: {excerpt(line.decode('utf-8', 'replace'))}")
    return value.removeprefix(b" ") if name == b"data" else None


def _decoded(data: list[bytes]) -> str:
    try:
        return b"\n".join(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedStream("an event is not UTF-8") from error


def excerpt(text: str) -> str:
    """The beginning of a text, quoted, for an error message."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
