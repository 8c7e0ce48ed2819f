from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.engine import (
    Delta,
    Engine,
    Finished,
    GenerateRequest,
    GenerationEvent,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
)
from orchestrator.workers.openai import OpenAIEngine, open_engine

from .fake_server import FakeServer

_ids = itertools.count()


class InstantClock:
    """Does not wait, and remembers how long it should have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@dataclass
class Heard:
    """All events of a request."""

    events: list[GenerationEvent] = field(default_factory=list)

    @property
    def texts(self) -> dict[int, str]:
        texts: dict[int, str] = {}
        for event in self.events:
            if isinstance(event, Delta):
                texts[event.index] = texts.get(event.index, "") + event.text
        return texts

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def finished(self) -> dict[int, Finished]:
        return {event.index: event for event in self.events if isinstance(event, Finished)}

    @property
    def prefilled(self) -> list[Prefilled]:
        return [event for event in self.events if isinstance(event, Prefilled)]

    @property
    def deltas(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]


def request_for(text: str = "Say hello.", *, samples: int = 1, max_tokens: int = 16, **fields: Any) -> GenerateRequest:
    return GenerateRequest(
        request_id=f"request {next(_ids)}",
        prompt=fields.pop("prompt", None) or Prompt((Message("user", text),)),
        samples=tuple(SampleSpec(seed=100 + index, max_tokens=max_tokens) for index in range(samples)),
        **fields,
    )


async def listen(engine: Engine, request: GenerateRequest, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    async with aclosing(engine.generate(request)) as events:  # type: ignore[type-var]
        async for event in events:
            heard.events.append(event)
    return heard


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110  # what is waited for happens in other code
            await asyncio.sleep(0.01)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def clock() -> InstantClock:
    return InstantClock()


@pytest.fixture
async def open_on(server: FakeServer, clock: InstantClock) -> AsyncIterator[Callable[..., Awaitable[OpenAIEngine]]]:
    """Opens engines on the fake server and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def open_it(**options: Any) -> OpenAIEngine:
            engine = await open_engine("toy", clock=clock, **{"base_url": server.base_url, **options})
            stack.push_async_callback(engine.aclose)
            return engine

        yield open_it
