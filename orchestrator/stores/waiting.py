"""Those of this process who wait for news of jobs, or for work; stores tell them when there is some."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.errors import StoreFailed
from orchestrator.store import JobState


@dataclass(slots=True, eq=False)
class NewsWaiter:
    """Someone who waits for news of a job.

    Attributes:
        job_id: The job.
        after: Rows above this position are news.
        future: What is waited for.
        state: The job's state when it was first looked up; None before.
    """

    job_id: str
    after: int
    future: asyncio.Future[None]
    state: JobState | None = None

    def has_news(self, *, next_seq: int, state: JobState) -> bool:
        """Whether a job that is like this is news to them."""
        if next_seq > self.after + 1 or state.is_terminal:
            return True
        if self.state is None:
            self.state = state
        return state is not self.state


class Waiters:
    """May be told from any thread, and waited with from any event loop.

    Args:
        on_added: Called when someone begins to wait.
    """

    def __init__(self, *, on_added: Callable[[], None] = lambda: None) -> None:
        self._on_added = on_added
        self._lock = threading.Lock()  # held while who waits, or whether there is work, changes
        self._news: dict[str, set[NewsWaiter]] = {}
        self._work: set[asyncio.Future[None]] = set()
        self._num_changes, self._num_heard = 1, 0  # of work; the first wait returns at once

    def __len__(self) -> int:
        return len(self._work) + sum(map(len, tuple(self._news.values())))

    async def for_work(self, *, timeout_s: float) -> None:
        """Returns when there is work that nobody has been told of yet, at the latest after ``timeout_s``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            is_new = self._num_heard == self._num_changes
            self._num_heard = self._num_changes
            if is_new:
                self._work.add(future)
        if not is_new:
            return
        self._on_added()
        try:
            await _ended(future, timeout_s=timeout_s)
        finally:
            with self._lock:
                self._work.discard(future)
                self._num_heard = self._num_changes

    async def for_news(self, job_id: str, *, after: int, timeout_s: float) -> None:
        """Returns when it is told of news of the job, at the latest after ``timeout_s``."""
        waiter = NewsWaiter(job_id, after, asyncio.get_running_loop().create_future())
        with self._lock:
            self._news.setdefault(job_id, set()).add(waiter)
        self._on_added()
        try:
            await _ended(waiter.future, timeout_s=timeout_s)
        finally:
            with self._lock:
                self._news[job_id].discard(waiter)
                if not self._news[job_id]:
                    del self._news[job_id]

    def waiting_for_news(self) -> list[NewsWaiter]:
        """Everyone who waits for news now."""
        with self._lock:
            return [waiter for waiters in self._news.values() for waiter in waiters]

    def tell_of_work(self) -> None:
        """There may be something to take or to cancel."""
        with self._lock:
            self._num_changes += 1
            futures = tuple(self._work)
        wake(futures)

    def tell_of_job(self, job_id: str) -> None:
        """A job has new rows or another state."""
        if job_id not in self._news:
            return
        with self._lock:
            futures = [waiter.future for waiter in self._news.get(job_id, ())]
        wake(futures)

    def end_all(self, failure: StoreFailed | None = None) -> None:
        """Nobody waits any longer; with ``failure`` that is raised where they wait."""
        with self._lock:
            futures = [*self._work, *(waiter.future for waiters in self._news.values() for waiter in waiters)]
        wake(futures, failure)


def wake(futures: Iterable[asyncio.Future[None]], failure: StoreFailed | None = None) -> None:
    """Ends waits, from any thread."""
    for future in futures:
        try:
            future.get_loop().call_soon_threadsafe(_resolve, future, failure)
        except RuntimeError:  # its loop is closed, and so nobody waits
            continue


def _resolve(future: asyncio.Future[None], failure: StoreFailed | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


async def _ended(future: asyncio.Future[None], *, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await future
    except TimeoutError:
        return
