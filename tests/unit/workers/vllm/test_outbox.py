"""Events on their way to a reader."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.engine import Delta, Finished, FinishReason, Prefilled
from orchestrator.errors import EngineFailed
from orchestrator.workers.vllm.outbox import Outbox, Tokens


def tokens(index: int, *ids: int) -> Tokens:
    return Tokens(index, "".join(map(str, ids)), len(ids), list(ids))


async def test_prefilled_comes_first_whatever_was_put_before():
    outbox = Outbox(2, max_unread_tokens=32)
    outbox.put_tokens(tokens(1, 5))
    waiting = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.begin(Prefilled(3))
    assert await waiting == Prefilled(3)
    assert await outbox.get() == Delta(1, "5", 1, (5,))


async def test_tokens_that_wait_become_one_delta_for_each_sample():
    outbox = Outbox(2, max_unread_tokens=32)
    outbox.begin(Prefilled(3))
    for step in range(3):
        outbox.put_tokens(tokens(0, step))
        outbox.put_tokens(tokens(1, 10 + step))
    outbox.put(Finished(0, FinishReason.END, 3))
    outbox.close()
    read = [event async for event in _all(outbox)]
    assert read == [
        Prefilled(3),
        Delta(0, "012", 3, (0, 1, 2)),
        Delta(1, "101112", 3, (10, 11, 12)),
        Finished(0, FinishReason.END, 3),
    ]


async def test_a_delta_holds_half_of_what_may_lie_unread_at_most():
    outbox = Outbox(1, max_unread_tokens=8)
    outbox.begin(Prefilled(1))
    for token in range(8):
        outbox.put_tokens(tokens(0, token))
    outbox.close()
    sizes = [event.num_tokens async for event in _all(outbox) if isinstance(event, Delta)]
    assert sizes == [4, 4]


async def test_a_delta_that_was_read_gets_no_more_tokens():
    outbox = Outbox(1, max_unread_tokens=8)
    outbox.begin(Prefilled(1))
    await outbox.get()
    outbox.put_tokens(tokens(0, 1))
    first = await outbox.get()
    outbox.put_tokens(tokens(0, 2))
    assert (first, await outbox.get()) == (Delta(0, "1", 1, (1,)), Delta(0, "2", 1, (2,)))


async def test_room_is_what_may_still_lie_unread_and_half_of_it_is_waited_for():
    outbox = Outbox(1, max_unread_tokens=4)
    outbox.begin(Prefilled(1))
    for token in range(4):
        outbox.put_tokens(tokens(0, token))
    assert outbox.room(0) == 0
    waiting = asyncio.ensure_future(outbox.until_half_read(0))
    await outbox.get()  # Prefilled
    await asyncio.sleep(0)
    assert not waiting.done()
    await outbox.get()
    await asyncio.wait_for(waiting, 1)
    assert outbox.room(0) == 2


async def test_an_error_comes_after_what_there_is():
    outbox = Outbox(1, max_unread_tokens=4)
    outbox.begin(Prefilled(1))
    outbox.close(EngineFailed("gone", model="m"))
    outbox.close()
    assert await outbox.get() == Prefilled(1)
    with pytest.raises(EngineFailed, match="gone"):
        await outbox.get()


async def _all(outbox: Outbox):
    while (event := await outbox.get()) is not None:
        yield event
