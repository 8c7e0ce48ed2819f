from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from orchestrator.workers.openai import OpenAIEngine
from orchestrator.workers.openai.reading import Pace

from .conftest import Heard, listen, request_for
from .fake_server import Body, FakeServer, chunk, usage

OpenOn = Callable[..., Awaitable[OpenAIEngine]]


def test_few_streams_are_read_as_they_come() -> None:
    pace = Pace()
    with pace.streaming(3):
        assert pace.pause_s(elapsed_s=60.0) == 0.0


def test_many_streams_rest_but_never_long() -> None:
    pace = Pace()
    with pace.streaming(40), pace.streaming(60):
        assert pace.pause_s(elapsed_s=60.0) == 0.05
        assert pace.pause_s(elapsed_s=0.5) == 0.025  # a twentieth of the time so far
        assert pace.pause_s(elapsed_s=0.01) == 0.0
        with pace.streaming(10_000):
            assert pace.pause_s(elapsed_s=60.0) == 0.1
    assert pace.pause_s(elapsed_s=60.0) == 0.0


async def _slowly(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
    for number in range(60):
        for index in range(body.get("n", 1)):
            yield chunk(f"{number} ", index)
        await asyncio.sleep(0.01)
    for index in range(body.get("n", 1)):
        yield chunk(None, index, finish_reason="stop")
    yield usage(11, 61 * body.get("n", 1))


def _largest(heard: Heard) -> int:
    return max(delta.num_tokens for delta in heard.deltas)


async def test_what_comes_while_streams_rest_is_read_at_once_and_in_order(open_on: OpenOn, server: FakeServer) -> None:
    server.reply = _slowly
    engine = await open_on()
    heard = await listen(engine, request_for(samples=100, max_tokens=99))
    assert _largest(heard) > 1
    assert set(heard.texts.values()) == {"".join(f"{number} " for number in range(60))}
    assert {finished.output_tokens for finished in heard.finished.values()} == {61}
