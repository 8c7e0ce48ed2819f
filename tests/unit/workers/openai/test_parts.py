from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import FinishReason, SampleSpec
from orchestrator.stopping import Ending
from orchestrator.workers.openai.chunks import ChoiceChunk, ServerReportedError, parse_chunks
from orchestrator.workers.openai.sample import RemoteSample, shares
from orchestrator.workers.openai.sse import EventReader, MalformedStream, events_of

from .conftest import request_for


async def _cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_events_do_not_depend_on_how_their_bytes_are_cut(size: int, newline: bytes) -> None:
    lines = [b": ping", b"", b"event: x", b"data: one", b"", b"data:two", "data: größer".encode(), b"", b"data: last"]
    data = newline.join(lines) + newline
    assert [event async for event in events_of(_cut(data, size))] == ["one", "two\ngrößer", "last"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"data: " + b"x" * 99, "longer"),
        (b"data: " + b"x" * 9 + b"\n" + b"data: y\n" * 12 + b"z" * 60, "longer"),
        (b"nonsense\n", "no event field"),
        (b"data: \xff\n\n", "UTF-8"),
    ],
)
async def test_bytes_that_are_no_stream_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedStream, match=reason):
        async for _ in events_of(_cut(data, 16), max_event_bytes=64):
            pass


@pytest.mark.parametrize("size", [1, 5, 64, 10_000])
async def test_events_of_one_line_come_out_whole_beside_those_that_are_not(size: int) -> None:
    lines = [f"data: {number}" for number in range(40)]
    lines[7], lines[20], lines[33] = ": ping", "data: two\ndata: lines", "event: x\r\ndata: 33\r"
    data = "\n\n".join(lines).encode() + b"\n\n\ndata: last\n\n"
    wanted = [str(number) for number in range(40) if number not in {7, 20}]
    wanted.insert(19, "two\nlines")
    assert [event async for event in events_of(_cut(data, size))] == [*wanted, "last"]


def test_events_before_a_bad_line_are_given_before_it_is_complained_of() -> None:
    reader = EventReader()
    assert reader.feed(b"data: good\n\nnonsense\n\ndata: late\n\n") == [b"good"]
    for call in (reader.finish, lambda: reader.feed(b"data: later\n\n")):
        with pytest.raises(MalformedStream, match="no event field"):
            call()


def _event(text: str, index: int = 0) -> bytes:
    return json.dumps({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}]}).encode()


@pytest.mark.parametrize("last", [b"{nonsense", b'{"error": {"message": "out of memory"}}', b"7", b"{}, {}", b"\xff"])
def test_chunks_before_a_bad_one_are_read(last: bytes) -> None:
    chunks, read = parse_chunks([_event("a"), _event("b"), last, _event("late")]), ""
    with pytest.raises((MalformedStream, ServerReportedError)):  # noqa: PT012  # how many chunks there are is left open
        while True:
            read += next(chunks).choices[0].text
    assert read == "ab"


def test_half_a_character_does_not_keep_the_other_chunks_from_being_read() -> None:
    events = [_event("a"), _event("b\ud83d"), _event("c")]
    assert [choice.text for chunk in parse_chunks(events) for choice in chunk.choices] == ["a", "b\ud83d", "c"]


def test_chunks_that_bring_nothing_but_text_become_one_up_to_one_that_says_more() -> None:
    last = b'{"choices": [{"index": 1, "delta": {"content": "y"}, "finish_reason": "stop"}]}'
    events = [_event("a"), _event("x", 1), _event("b"), last, _event("c")]
    said = [[(each.place, each.pieces, each.finish_reason) for each in chunk.choices] for chunk in parse_chunks(events)]
    assert said == [[(0, ["a", "b"], None), (1, ["x"], None)], [(1, ("y",), "stop")], [(0, ["c"], None)]]


def test_counts_that_may_be_a_choices_own_are_not_taken_for_anothers() -> None:
    def counted(text: str, index: int, count: int | str) -> bytes:
        usage = {"prompt_tokens": 5, "completion_tokens": count}
        return json.dumps(json.loads(_event(text, index)) | {"usage": usage}).encode()

    events = [_event("a"), _event("x", 1), counted("b", 0, 2), counted("c", 0, 3), counted("y", 1, 2)]
    said = [
        ([(each.place, each.text) for each in chunk.choices], chunk.usage and chunk.usage.completion_tokens)
        for chunk in parse_chunks(events)
    ]
    assert said == [([(0, "a"), (1, "x")], None), ([(0, "bc")], 3), ([(1, "y")], 2)]
    with pytest.raises(MalformedStream, match="counts tokens"):
        next(parse_chunks([counted("a", 0, "many")]))


@pytest.mark.parametrize("size", [1, 8, 40])
@pytest.mark.parametrize(("most_unread", "wanted"), [(32, [16, 16, 8]), (12, [6] * 6 + [4]), (1, [1] * 40)])
def test_what_comes_together_leaves_in_few_deltas_that_hold_their_own_text(
    most_unread: int, wanted: list[int], size: int
) -> None:
    request = replace(request_for(), max_unread_tokens=most_unread)
    sample = RemoteSample(0, SampleSpec(0, 99), request)
    for start in range(0, 40, size):
        sample.take(ChoiceChunk(0, [f"{number} " for number in range(start, start + size)]))
    deltas = sample.deltas()
    assert [delta.num_tokens for delta in deltas] == wanted
    assert [len(delta.text.split()) for delta in deltas] == wanted
    assert "".join(delta.text for delta in deltas) == "".join(f"{number} " for number in range(40))
    assert sample.deltas() == []


@given(
    counted=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    rest=st.integers(-5, 60),
    ended=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_shares_add_up_to_the_servers_count_and_are_no_less_than_was_seen(
    counted: list[int], rest: int, ended: list[bool]
) -> None:
    request = request_for(samples=len(counted))
    samples = [RemoteSample(index, SampleSpec(0, 9), request) for index in range(len(counted))]
    for sample, count, has_ended in zip(samples, counted, ended, strict=False):
        sample.counted_tokens = count
        sample.ending = Ending(FinishReason.END if has_ended else FinishReason.LENGTH, "")
    total = sum(counted) + rest
    parts = shares(total, samples)
    if rest < 0:
        assert parts is None
    else:
        assert parts is not None
        assert sum(parts) == total
        assert all(part >= count for part, count in zip(parts, counted, strict=True))
