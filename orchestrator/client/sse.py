"""Server-sent events: bytes in, messages out (WHATWG HTML, section 9.2.6), without any I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.errors import ServiceFailed

MAX_MESSAGE_BYTES = 64 * 2**20
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a carriage return at the very end may be half of a pair


class Message(NamedTuple):
    """One event of the stream.

    Attributes:
        kind: Its ``event`` field; ``message`` if it has none.
        data: Its ``data`` lines, joined.
        id: Its ``id`` field; None if it has none.
    """

    kind: str
    data: str
    id: str | None


class MessageReader:
    """Puts messages together from pieces of any size; comments (heartbeats) and unknown fields are dropped.

    Lines end as the standard says and nowhere else: JSON may hold U+2028 and its like.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._size = 0
        self._kind = "message"
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that this piece completes.

        Raises:
            ServiceFailed: A message is longer than `MAX_MESSAGE_BYTES`.
        """
        self._rest += piece
        self._size += len(piece)
        if self._size > MAX_MESSAGE_BYTES:
            raise ServiceFailed(f"an event is longer than {MAX_MESSAGE_BYTES} bytes", is_retryable=False)
        if b"\n" not in piece and b"\r" not in self._rest:
            return
        *lines, rest = _LINE_END.split(bytes(self._rest))
        self._rest = bytearray(rest)
        for line in lines:
            if (message := self._read(line.decode("utf-8", "replace"))) is not None:
                yield message

    def _read(self, line: str) -> Message | None:
        if not line:
            message = Message(self._kind, "\n".join(self._data), self._id) if self._data else None
            self._kind, self._id, self._data, self._size = "message", None, [], len(self._rest)
            return message
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        return None
