"""Chunks of a stream: what waits and what does not, and how far it gets ahead of its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from orchestrator.engine import MAX_UNREAD_TOKENS, Delta, Finished, FinishReason, GenerationEvent, Prefilled
from orchestrator.errors import EngineFailed
from orchestrator.workers.ray.outflow import Outflow, Reading, Window

LONG_S = 30.0


class Source:
    """An engine's stream that says what the test puts in."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[GenerationEvent | Exception | None] = asyncio.Queue()
        self.num_taken = 0
        self.is_closed = False

    def put(self, *events: GenerationEvent | Exception | None) -> None:
        for event in events:
            self._events.put_nowait(event)

    async def stream(self) -> AsyncIterator[GenerationEvent]:
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                self.num_taken += 1
                yield event
        finally:
            self.is_closed = True


def delta(num_tokens: int = 1, *, index: int = 0) -> Delta:
    return Delta(index, "x" * num_tokens, num_tokens)


def finished(index: int = 0) -> Finished:
    return Finished(index, FinishReason.LENGTH, 1)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_first_tokens_wait_for_nothing_and_later_ones_for_each_other() -> None:
    source = Source()
    outflow = Outflow(source.stream(), allowed_tokens=MAX_UNREAD_TOKENS, interval_s=LONG_S)
    async with aclosing(outflow.chunks()) as chunks:
        source.put(Prefilled(3))
        assert await anext(chunks) == [Prefilled(3)]
        source.put(delta())
        assert await anext(chunks) == [delta()]
        source.put(delta(2))
        waiting = asyncio.ensure_future(anext(chunks))
        await settle()
        assert not waiting.done(), "it waits for more"
        source.put(delta(2, index=1), finished(1))
        assert await waiting == [delta(2), delta(2, index=1), finished(1)], "what ends a sample does not wait"


async def test_chunks_that_can_wait_are_sent_after_the_interval() -> None:
    source = Source()
    outflow = Outflow(source.stream(), allowed_tokens=MAX_UNREAD_TOKENS, interval_s=0.01)
    async with aclosing(outflow.chunks()) as chunks:
        source.put(delta())
        await anext(chunks)
        source.put(delta())
        async with asyncio.timeout(5):
            assert await anext(chunks) == [delta()]


async def test_what_the_engine_would_have_to_wait_for_does_not_wait() -> None:
    window = Window.of(MAX_UNREAD_TOKENS)
    source = Source()
    outflow = Outflow(source.stream(), allowed_tokens=MAX_UNREAD_TOKENS, interval_s=LONG_S)
    async with aclosing(outflow.chunks()) as chunks:
        source.put(delta())
        await anext(chunks)
        source.put(*[delta() for _ in range(window.ack - 1)])
        async with asyncio.timeout(5):
            assert len(await anext(chunks)) == window.ack - 1


@pytest.mark.parametrize("allowed", [1, 2, 4, 12, MAX_UNREAD_TOKENS])
@pytest.mark.parametrize("num_tokens", [1, 2, 6, 32])
async def test_a_reader_that_stops_is_not_run_away_from_and_one_that_goes_on_gets_everything(
    allowed: int, num_tokens: int
) -> None:
    window, source = Window.of(allowed), Source()
    source.put(*[delta(num_tokens) for _ in range(50)], finished(), None)
    outflow = Outflow(source.stream(), allowed_tokens=allowed, interval_s=0.0)
    reading = Reading(allowed_tokens=allowed)
    got: list[GenerationEvent] = []
    async with asyncio.timeout(10), aclosing(outflow.chunks()) as chunks:
        async for chunk in chunks:
            await settle()
            unread = num_tokens * (source.num_taken - len(got))
            most = max(window.flowing, window.ack - 1 + num_tokens) + num_tokens  # one is held by whoever reads
            assert unread <= most or source.num_taken >= 50
            for event in chunk:
                got.append(event)
                if (num_taken := reading.take(event)) is not None:
                    outflow.taken(num_taken)
    assert got == [*[delta(num_tokens) for _ in range(50)], finished()]


async def test_samples_are_held_back_one_by_one_and_reports_may_overtake_each_other() -> None:
    window, source = Window.of(12), Source()
    outflow = Outflow(source.stream(), allowed_tokens=12, interval_s=0.0)
    async with aclosing(outflow.chunks()) as chunks:
        source.put(*[delta(2) for _ in range(10)])
        taken = len(await anext(chunks))
        await settle()
        assert outflow.is_waiting_for_reader
        assert 2 * taken <= window.flowing + 2
        outflow.taken(taken)
        outflow.taken(1)
        await settle()
        assert source.num_taken > taken


async def test_what_the_engine_raises_comes_after_what_it_said() -> None:
    source = Source()
    source.put(delta(), EngineFailed("broken", model="m"))
    outflow = Outflow(source.stream(), allowed_tokens=32, interval_s=LONG_S)
    chunks = outflow.chunks()
    assert await anext(chunks) == [delta()]
    with pytest.raises(EngineFailed, match="broken"):
        await anext(chunks)
    assert source.is_closed


async def test_a_stream_that_nobody_reads_is_closed_and_one_that_is_abandoned_ends_with_why() -> None:
    source = Source()
    outflow = Outflow(source.stream(), allowed_tokens=32, interval_s=LONG_S)
    chunks = outflow.chunks()
    source.put(delta())
    await anext(chunks)
    await chunks.aclose()
    assert source.is_closed

    source = Source()
    outflow = Outflow(source.stream(), allowed_tokens=32, interval_s=LONG_S)
    chunks = outflow.chunks()
    waiting = asyncio.ensure_future(anext(chunks))
    await settle()
    outflow.abandon(EngineFailed("nobody reads this", model="m"))
    with pytest.raises(EngineFailed, match="nobody"):
        await waiting
    assert source.is_closed


@pytest.mark.parametrize("allowed", range(4, MAX_UNREAD_TOKENS + 1))
def test_the_shares_of_a_window_stay_within_what_is_allowed(allowed: int) -> None:
    window = Window.of(allowed)
    assert window.ahead + window.ahead // 2 + window.flowing <= allowed
    assert 1 <= window.ack <= window.flowing
