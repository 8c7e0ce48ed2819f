"""What jobs of this process say, handed to whoever follows them here; the journal stays the only truth."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.events import Event, Publish
from orchestrator.store import JobRecord

_MAX_UNREAD = 2000
_UNTOLD = frozenset({"started", "result"})
"""Of no use to followers: the first says what the record says, the second what the ``final`` row says."""


class Following:
    """What a follower has not read yet.

    Attributes:
        is_behind: Events were dropped, since the follower reads too slowly; the journal has the durable ones.
    """

    def __init__(self) -> None:
        self.is_behind = False
        self._unread: deque[Event] = deque()
        self._news = asyncio.Event()

    def put(self, event: Event) -> None:
        """Hands an event over."""
        if len(self._unread) >= _MAX_UNREAD:
            self._unread.clear()
            self.is_behind = True
        self._unread.append(event)
        self._news.set()

    def read(self) -> list[Event]:
        """All unread events."""
        events = list(self._unread)
        self._unread.clear()
        self._news.clear()
        self.is_behind = False
        return events

    async def wait(self) -> None:
        """Returns when there is something to read."""
        await self._news.wait()


class LiveEvents:
    """An observer of the runner (see `orchestrator.runner.Observer`) that hands events to followers."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Following]] = {}

    def __call__(self, record: JobRecord) -> Publish:
        """Tells the job's followers."""

        def publish(event: Event) -> None:
            followers = self._followers.get(record.id)
            if followers and event.kind not in _UNTOLD:
                for follower in followers:
                    follower.put(event)

        return publish

    def is_followed(self, job_id: str) -> bool:
        """Whether anybody follows the job."""
        return job_id in self._followers

    @contextmanager
    def following(self, job_id: str) -> Iterator[Following]:
        """The job's events from now on, while it runs here."""
        follower = Following()
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            yield follower
        finally:
            followers = self._followers[job_id]
            followers.discard(follower)
            if not followers:
                del self._followers[job_id]
