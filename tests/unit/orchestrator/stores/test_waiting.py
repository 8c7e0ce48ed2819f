"""Waits end when they are told to, from any thread, and leave nothing behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store import JobState
from orchestrator.stores.waiting import NewsWaiter, Waiters
from orchestrator.testing.virtual_time import run_virtual

FOREVER_S = 1e6


async def settled(waiters: Waiters) -> None:
    """Takes the first wait, which returns at once."""
    await waiters.for_work(timeout_s=FOREVER_S)


def test_a_wait_lasts_as_long_as_it_may() -> None:
    async def story() -> float:
        waiters = Waiters()
        await settled(waiters)
        await waiters.for_work(timeout_s=3)
        await waiters.for_news("a", after=0, timeout_s=4)
        assert len(waiters) == 0
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) == pytest.approx(7)


async def test_a_change_between_two_waits_ends_the_second_at_once_and_the_third_not() -> None:
    waiters = Waiters()
    await settled(waiters)
    waiters.tell_of_work()
    waiters.tell_of_work()
    async with asyncio.timeout(5):
        await waiters.for_work(timeout_s=FOREVER_S)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await waiters.for_work(timeout_s=FOREVER_S)


async def test_another_thread_may_tell() -> None:
    waiters = Waiters()
    await settled(waiters)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(waiters.for_work(timeout_s=FOREVER_S))
        group.create_task(waiters.for_news("a", after=0, timeout_s=FOREVER_S))
        await asyncio.sleep(0)
        for tell in (waiters.tell_of_work, lambda: waiters.tell_of_job("a")):
            threading.Thread(target=tell).start()
    assert len(waiters) == 0


async def test_who_is_cancelled_waits_no_more() -> None:
    waiters = Waiters()
    await settled(waiters)
    tasks = [
        asyncio.ensure_future(waiters.for_work(timeout_s=FOREVER_S)),
        asyncio.ensure_future(waiters.for_news("a", after=0, timeout_s=FOREVER_S)),
    ]
    await asyncio.sleep(0)
    assert len(waiters) == 2
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(waiters) == 0
    waiters.tell_of_job("a")


async def test_a_failure_is_raised_where_they_wait() -> None:
    waiters = Waiters()
    waiting = asyncio.ensure_future(waiters.for_news("a", after=0, timeout_s=FOREVER_S))
    await asyncio.sleep(0)
    waiters.end_all(StoreFailed("gone"))
    with pytest.raises(StoreFailed, match="gone"):
        await waiting


async def test_telling_those_whose_loop_is_closed_harms_nobody() -> None:
    waiters = Waiters()

    def leave() -> None:
        loop = asyncio.new_event_loop()
        waiting = waiters.for_news("a", after=0, timeout_s=FOREVER_S)
        task = loop.create_task(waiting)
        loop.run_until_complete(asyncio.sleep(0))
        kept.append(task)
        loop.close()

    kept: list[asyncio.Task[None]] = []
    await asyncio.to_thread(leave)
    here = asyncio.ensure_future(waiters.for_news("a", after=0, timeout_s=FOREVER_S))
    await asyncio.sleep(0)
    waiters.tell_of_job("a")
    async with asyncio.timeout(5):
        await here
    kept[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # it is left pending on purpose


@pytest.mark.parametrize(
    ("seen", "next_seq", "state", "is_news"),
    [
        (None, 3, JobState.RUNNING, False),
        (None, 4, JobState.RUNNING, True),
        (None, 0, JobState.CANCELLED, True),
        (JobState.RUNNING, 3, JobState.RUNNING, False),
        (JobState.RUNNING, 3, JobState.WAITING, True),
        (JobState.QUEUED, 0, JobState.RUNNING, True),
    ],
)
async def test_news_are_rows_another_state_or_the_end(
    seen: JobState | None, next_seq: int, state: JobState, is_news: bool
) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiter = NewsWaiter("a", 2, future, state=seen)
    assert waiter.has_news(next_seq=next_seq, state=state) is is_news
