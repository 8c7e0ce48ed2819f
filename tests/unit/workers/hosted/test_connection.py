"""Connections between a process and the one that hosts its engine, in the event loops that there are."""

from __future__ import annotations

import asyncio
import socket

import pytest

from orchestrator.workers.hosted.connection import Connection
from orchestrator.workers.hosted.frames import Frame

uvloop = pytest.importorskip("uvloop")


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_message_arrives_whole_and_the_end_is_noticed(loop_factory) -> None:
    async def exchange() -> list[object]:
        ends = socket.socketpair()
        arrived: asyncio.Queue[Frame] = asyncio.Queue()
        is_lost = asyncio.Event()
        speaker = await Connection.over(ends[0], lambda _frame: None, lambda: None)
        listener = await Connection.over(ends[1], arrived.put_nowait, is_lost.set)
        async with asyncio.timeout(10):
            speaker.send(["hello", 1])
            frame = await arrived.get()
            await speaker.close()
            await is_lost.wait()
            await listener.close()
        return list(frame.message)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(exchange()) == ["hello", 1]
