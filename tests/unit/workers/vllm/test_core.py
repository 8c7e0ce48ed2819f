"""A core that dies is started again, a few times, and whoever asks waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import EngineFailed
from orchestrator.workers.vllm.core import Core
from orchestrator.workers.vllm.counters import SchedulerCounters


class Front:
    """Stands for vLLM's `AsyncLLM`."""

    def __init__(self) -> None:
        self.errored = False
        self.num_shutdowns = 0

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def shutdown(self) -> None:
        self.num_shutdowns += 1


def core_of(front: Front, restart: Callable[[], Any], **options: Any) -> Core:
    llm: Any = front
    return Core(llm, name="m", counters=SchedulerCounters(), restart=restart, **options)


async def test_a_dead_core_is_replaced_once_for_all_who_ask():
    first, second = Front(), Front()
    starts: list[Front] = []

    def restart() -> Any:
        starts.append(second)
        return second

    core = core_of(first, restart)
    await core.ready()
    assert not starts
    first.errored = True
    assert "has died" in core.trouble
    await asyncio.gather(*(core.ready() for _ in range(5)))
    assert starts == [second]
    assert first.num_shutdowns == 1
    assert core.trouble == ""
    await core.aclose()
    assert second.num_shutdowns == 1


async def test_a_request_waits_no_longer_than_its_deadline():
    first, gate = Front(), threading.Event()

    def restart() -> Any:
        gate.wait(10)
        return Front()

    core = core_of(first, restart)
    first.errored = True
    with pytest.raises(EngineFailed, match="has died") as caught:
        await core.ready(within_s=0.01)
    assert caught.value.is_retryable
    gate.set()
    await core.ready()
    await core.aclose()


async def test_after_three_deaths_in_a_row_it_stays_down_and_says_so():
    def restart() -> Any:
        raise EngineFailed("no memory", model="m")

    core = core_of(Front(), restart)
    core.llm.errored = True  # type: ignore[misc]  # the fake's
    for _ in range(3):
        with pytest.raises(EngineFailed) as caught:
            await core.ready()
        assert caught.value.is_retryable
    with pytest.raises(EngineFailed, match="too often") as caught:
        await core.ready()
    assert not caught.value.is_retryable
    await core.aclose()


async def test_a_core_that_has_lived_long_has_no_record():
    fronts = [Front() for _ in range(6)]
    waiting = iter(fronts[1:])
    core = core_of(fronts[0], lambda: next(waiting), stable_s=0.0)
    for front in fronts[:5]:
        front.errored = True
        await asyncio.sleep(0.001)
        await core.ready()
    assert core.llm is fronts[5]
    await core.aclose()


async def test_a_closed_core_refuses_for_good_and_is_shut_down_once():
    front = Front()
    core = core_of(front, Front)
    await asyncio.gather(core.aclose(), core.aclose())
    assert front.num_shutdowns == 1
    with pytest.raises(EngineFailed, match="closed") as caught:
        await core.ready()
    assert not caught.value.is_retryable
