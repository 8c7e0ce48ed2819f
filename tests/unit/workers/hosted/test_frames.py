"""Frames are found in any stream of bytes, however it is cut; what is no frame is refused."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workers.hosted.frames import MAX_FRAME_BYTES, BadFrameError, FrameReader, packed

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FRAMES = st.lists(st.tuples(st.lists(_VALUES, min_size=1, max_size=4), st.lists(st.binary(), max_size=3)), max_size=5)


@given(_FRAMES, st.integers(1, 50))
def test_what_was_sent_comes_out_however_the_bytes_are_cut(
    frames: list[tuple[list[Any], list[bytes]]], cut: int
) -> None:
    data = b"".join(packed(message, [memoryview(blob) for blob in blobs]) for message, blobs in frames)
    reader = FrameReader()
    received = [frame for start in range(0, len(data), cut) for frame in reader.feed(data[start : start + cut])]
    assert [(frame.message, [bytes(blob) for blob in frame.blobs]) for frame in received] == frames


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!II", MAX_FRAME_BYTES + 1, 0),
        struct.pack("!II", 2, 100_000),
        struct.pack("!III", 2, 1, MAX_FRAME_BYTES) + b"[]",
        struct.pack("!II", 4, 0) + b"nope",
        struct.pack("!II", 2, 0) + b"{}",
        struct.pack("!II", 2, 0) + b"[]",
        b"\xff" * 64,
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrameError):
        list(FrameReader().feed(data))


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(BadFrameError, match="too long"):
        packed(["x"], [memoryview(bytes(MAX_FRAME_BYTES))])


def test_values_that_are_no_json_are_not_sent() -> None:
    with pytest.raises(TypeError, match="set is no JSON"):
        packed(["x", {1}])
