"""Server-sent events are put together from pieces of any size."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client import sse
from orchestrator.client.sse import Message, MessageReader
from orchestrator.errors import ServiceFailed

STREAM = (
    ": hello\n\n"
    'id: 0\nevent: begin\ndata: {"a":\ndata: 1}\n\n'
    'event: delta\r\ndata:{"text": "\u2028é\x85"}\r\n\r\n'
    ": heartbeat\n\n"
    "retry: 3\nunknown\nid: 7\rdata: last\r\r"
).encode()
MESSAGES = [
    Message("begin", '{"a":\n1}', "0"),
    Message("delta", '{"text": "\u2028é\x85"}', None),
    Message("message", "last", "7"),
]


def read(pieces: list[bytes]) -> list[Message]:
    reader = MessageReader()
    return [message for piece in pieces for message in reader.feed(piece)]


def test_messages_are_read_as_the_standard_says():
    assert read([STREAM + b":"]) == MESSAGES  # a carriage return at the very end may be half of a pair


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]):
    places = sorted({0, *cuts, len(STREAM)})
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(places)]
    assert read([*pieces, b":"]) == MESSAGES


def test_it_does_not_matter_if_every_byte_comes_alone():
    assert read([bytes([byte]) for byte in STREAM + b":"]) == MESSAGES


def test_an_unfinished_message_is_not_told():
    assert read([b"data: 1\n\ndata: 2\n"]) == [Message("message", "1", None)]


def test_a_message_without_end_is_refused_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "MAX_MESSAGE_BYTES", 100)
    assert len(read([b"data: 123\n\n"] * 50)) == 50
    with pytest.raises(ServiceFailed, match="longer than 100 bytes"):
        read([b"data: 123\n"] * 11)
