from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import FinishReason, SampleSpec
from orchestrator.stopping import Ending
from orchestrator.workers.openai.sample import RemoteSample, shares
from orchestrator.workers.openai.sse import MalformedStream, events_of

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
