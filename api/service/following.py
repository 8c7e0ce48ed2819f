"""Follows a job: its journal from any point on, then what happens, wherever it runs; and waits for its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.api.service.live import Following, LiveEvents
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator
from orchestrator.store import JobRecord, JobState

HEARTBEAT = "heartbeat"
"""Kind of an event that says only that the stream is alive."""
_LOOK_S = 15.0
"""Whoever waits for a job's end looks so often whether it was missed."""
_STORE_GRACE_S = 5.0
"""A store that says nothing so long after its time is over is not waited for."""
_NO_ROW = 2**53
"""A position that no journal reaches: news are other states only."""


class Followers:
    """Everybody who waits for something in this process; `close` ends their waits.

    Args:
        orchestrator: Open.
        live: What jobs of this process say.
    """

    def __init__(self, orchestrator: Orchestrator, live: LiveEvents) -> None:
        self._orchestrator = orchestrator
        self._live = live
        self._waits: set[asyncio.Timeout] = set()
        self._is_closed = False

    def close(self) -> None:
        """Ends all waits, now and in future; streams end where they are."""
        self._is_closed = True
        now = asyncio.get_running_loop().time()
        for wait in tuple(self._waits):
            wait.reschedule(now)

    async def until_settled(self, job_id: str, *, timeout_s: float) -> JobRecord:
        """The job when it has ended or waits for a person, at the latest after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            record = await self._orchestrator.store.get(job_id)
            left = deadline - time.monotonic()
            if record.state.is_terminal or record.state is JobState.WAITING or left <= 0 or self._is_closed:
                return record
            await self._wait_for_news(job_id, _NO_ROW, min(left, _LOOK_S))

    async def follow(self, job_id: str, *, after: int, heartbeat_s: float) -> AsyncIterator[Event]:
        """Journal rows above ``after``, then events as they come; ends after ``final``, or when this is closed.

        A `HEARTBEAT` is told after ``heartbeat_s`` seconds of silence.
        """
        store, last, is_over = self._orchestrator.store, after, False
        with self._live.following(job_id) as following:
            while not self._is_closed:
                rows = await store.read(job_id, after=last)
                for row in rows:
                    last = row.seq
                    yield Event.of(row)
                    if row.kind == "final":
                        return
                if is_over:
                    return
                if rows:
                    continue
                if job_id in self._orchestrator.running:
                    live = await self._live_events(following, heartbeat_s)
                    for event in live:
                        if event.seq is not None and event.seq != last + 1:
                            continue  # told already, or to be read from the journal
                        last = last if event.seq is None else event.seq
                        yield event
                        if event.kind == "final":
                            return
                    is_silent = not live
                else:
                    is_over = (await store.get(job_id)).state.is_terminal  # then the rows are read once more
                    is_silent = not is_over and not await self._wait_for_news(job_id, last, heartbeat_s)
                if is_silent:
                    yield Event(HEARTBEAT)

    async def _live_events(self, following: Following, timeout_s: float) -> list[Event]:
        """What a job that runs here says next; empty after ``timeout_s``, or when the journal is to be read."""
        async with self._wait(timeout_s):
            await following.wait()
        is_behind = following.is_behind
        events = following.read()
        return [] if is_behind else events

    async def _wait_for_news(self, job_id: str, after: int, timeout_s: float) -> bool:
        """Whether there may be news, and not just nothing for so long."""
        started_at = time.monotonic()
        async with self._wait(timeout_s + _STORE_GRACE_S):
            await self._orchestrator.store.wait_for_news(job_id, after=after, timeout_s=timeout_s)
        return time.monotonic() - started_at < timeout_s

    @asynccontextmanager
    async def _wait(self, timeout_s: float) -> AsyncIterator[None]:
        """Something that is waited for, at most so long, and not beyond `close`."""
        wait = asyncio.timeout(0 if self._is_closed else timeout_s)
        try:
            async with wait:
                self._waits.add(wait)
                yield
        except TimeoutError:
            if not wait.expired():
                raise
        finally:
            self._waits.discard(wait)
