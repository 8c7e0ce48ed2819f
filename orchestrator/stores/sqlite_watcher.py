"""The one thread that looks whether other processes have changed an SQLite file, while somebody waits for that."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator.errors import StoreFailed
from orchestrator.store import JobState
from orchestrator.stores.sqlite_connection import failure
from orchestrator.stores.waiting import NewsWaiter, Waiters, wake

_LOG = logging.getLogger(__name__)
_POLL_S = 0.05
_WORK = (
    "SELECT 1 FROM counts WHERE state = 'queued' UNION ALL "
    "SELECT 1 FROM jobs INDEXED BY jobs_running WHERE state = 'running' AND is_cancel_wanted LIMIT 1"
)
_MOST_IDS = 500
"""In one query; far below SQLite's limit on parameters."""


class Watcher:
    """Tells `waiters` of what was written through other connections; asks SQLite for one number every 50 ms.

    Args:
        open_connection: To the file; used and closed by the thread, which starts when somebody waits.
        path: Of the file.
    """

    def __init__(self, open_connection: Callable[[], sqlite3.Connection], path: Path) -> None:
        self._open = open_connection
        self._path = path
        self._condition = threading.Condition()  # guards the two flags below
        self._has_new_waiters = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self.waiters = Waiters(on_added=self._look_at_once)

    async def aclose(self) -> None:
        """Ends all waits, and the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self.waiters.end_all()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _look_at_once(self) -> None:
        with self._condition:
            self._has_new_waiters = True
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="ttc-store-watcher", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _work(self) -> None:
        look: _Look | None = None
        while self._is_time_to_look():
            try:
                look = look or _Look(self._open())
                look.tell(self.waiters)
            except (sqlite3.Error, StoreFailed) as error:
                failed = error if isinstance(error, StoreFailed) else failure(error, self._path)
                _LOG.warning("the store cannot be watched", extra={"path": str(self._path), "error": str(failed)})
                self.waiters.end_all(failed)
        if look is not None:
            look.connection.close()
        self.waiters.end_all()

    def _is_time_to_look(self) -> bool:
        """Waits for the next look; False at the end."""
        with self._condition:
            if not self._has_new_waiters:
                self._condition.wait(timeout=_POLL_S)
            while not (self._is_closed or self._has_new_waiters or len(self.waiters)):
                self._condition.wait()
            self._has_new_waiters = False
            return not self._is_closed


class _Look:
    """What was seen last through a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._version = -1
        self._work = -1

    def tell(self, waiters: Waiters) -> None:
        """Tells of what has changed since the last call, and those who are new of what they have missed."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        has_changed = version != self._version
        news = [waiter for waiter in waiters.waiting_for_news() if has_changed or waiter.state is None]
        wake(waiter.future for waiter in self._with_news(news))
        if has_changed:
            (work,) = self.connection.execute("SELECT value FROM signals WHERE name = 'work'").fetchone()
            if work != self._work and self._is_work_there():
                waiters.tell_of_work()
            self._work = work
        self._version = version  # only now: what fails above is looked at again

    def _is_work_there(self) -> bool:
        """Not every change leaves something to take or to cancel: most jobs end and nobody waits."""
        return self.connection.execute(_WORK).fetchone() is not None

    def _with_news(self, waiters: Iterable[NewsWaiter]) -> Iterator[NewsWaiter]:
        by_job: dict[str, list[NewsWaiter]] = {}
        for waiter in waiters:
            by_job.setdefault(waiter.job_id, []).append(waiter)
        ids = list(by_job)
        for start in range(0, len(ids), _MOST_IDS):
            some = ids[start : start + _MOST_IDS]
            places = ", ".join("?" * len(some))
            statement = f"SELECT id, next_seq, state FROM jobs WHERE id IN ({places})"  # noqa: S608  # question marks
            found = {row[0]: row[1:] for row in self.connection.execute(statement, some)}
            for job_id in some:
                next_seq, state = found.get(job_id, (0, JobState.CANCELLED))  # one that is gone is news, too
                for waiter in by_job[job_id]:
                    if waiter.has_news(next_seq=next_seq, state=JobState(state)):
                        yield waiter
