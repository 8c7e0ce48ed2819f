from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from orchestrator.engine import Message, Prompt
from orchestrator.workers.reward_server import RewardServerEngine, open_engine

from .fake_server import FakeRewards

PROMPT = Prompt((Message("system", "Think."), Message("user", "2+2 times 3?")))
STEPS = ("2+2=4\n\n", "4*3=12\n\n", "The final answer is \\boxed{12}")

OpenOn = Callable[..., Awaitable[RewardServerEngine]]


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


@pytest.fixture
async def server() -> AsyncIterator[FakeRewards]:
    server = FakeRewards()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def clock() -> InstantClock:
    return InstantClock()


@pytest.fixture
async def open_on(server: FakeRewards, clock: InstantClock) -> AsyncIterator[OpenOn]:
    """Opens engines on the fake server, without a probe unless asked, and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def open_it(form: str, **options: Any) -> RewardServerEngine:
            url = server.url + ("/score/steps" if form == "json" else "")
            engine = await open_engine(url, form=form, clock=clock, **{"probe": False, **options})
            stack.push_async_callback(engine.aclose)
            return engine

        yield open_it
