"""Frames on the sockets between a hosted engine and its host: a JSON message, and the arrays that belong to it.

A frame is the length of the message and the number of arrays (4 bytes each, big-endian), the length of each array
(4 bytes each), the message, the arrays.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

MAX_FRAME_BYTES = 1 << 28
"""256 MiB; more is no message of ours."""
_MAX_BLOBS = 1024
_HEAD = struct.Struct("!II")


class BadFrameError(ValueError):
    """What came in is no frame."""


class Frame(NamedTuple):
    """One message.

    Attributes:
        message: A list of JSON values: what it is about, then what that needs.
        blobs: Its arrays.
    """

    message: list[Any]  # Any: JSON values
    blobs: list[memoryview]


def packed(message: Sequence[Any], blobs: Sequence[memoryview] = ()) -> bytes:
    """A frame.

    Raises:
        BadFrameError: It would be longer than any frame may be.
    """
    text = json.dumps(message, separators=(",", ":"), default=_plain).encode("ascii")
    lengths = [blob.nbytes for blob in blobs]
    if len(text) + sum(lengths) > MAX_FRAME_BYTES or len(blobs) > _MAX_BLOBS:
        raise BadFrameError(f"a message of {len(text) + sum(lengths)} bytes is too long")
    return b"".join((_HEAD.pack(len(text), len(blobs)), struct.pack(f"!{len(blobs)}I", *lengths), text, *blobs))


class FrameReader:
    """Finds the frames in a stream of bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Takes more bytes; gives the frames that are complete now.

        Raises:
            BadFrameError: The bytes are no frames; the stream is of no use any more.
        """
        self._bytes += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._bytes) < _HEAD.size:
            return None
        text_bytes, num_blobs = _HEAD.unpack_from(self._bytes)
        if text_bytes > MAX_FRAME_BYTES or num_blobs > _MAX_BLOBS:
            raise BadFrameError("the head of a frame is out of range")
        start = _HEAD.size + 4 * num_blobs
        if len(self._bytes) < start:
            return None
        lengths = struct.unpack_from(f"!{num_blobs}I", self._bytes, _HEAD.size)
        end = start + text_bytes + sum(lengths)
        if end > MAX_FRAME_BYTES + start:
            raise BadFrameError("a frame is too long")
        if len(self._bytes) < end:
            return None
        whole = bytes(self._bytes[:end])
        del self._bytes[:end]
        return _unpacked(whole, start, text_bytes, lengths)


def _unpacked(whole: bytes, start: int, text_bytes: int, lengths: Sequence[int]) -> Frame:
    try:
        message = json.loads(whole[start : start + text_bytes])
    except ValueError as error:
        raise BadFrameError(f"a message is no JSON: {error}") from error
    if not isinstance(message, list) or not message:
        raise BadFrameError("a message is a list that begins with what it is about")
    blobs: list[memoryview] = []
    place = start + text_bytes
    for length in lengths:
        blobs.append(memoryview(whole)[place : place + length])
        place += length
    return Frame(message, blobs)


def _plain(value: object) -> object:
    """Numbers of NumPy as Python's."""
    item = getattr(value, "item", None)
    if not callable(item):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return item()
