"""Writes a job's journal: rows are gathered, and whoever needs them durable waits for one append of all of them."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.errors import TtcError
from orchestrator.events import Event, Publish
from orchestrator.store import JobState, JournalRow, Journals


class Recorder:
    """The only writer of one job's journal while its lease is held.

    Invariant of the lock: at most one append is under way, and rows reach the store in the order of their positions.
    """

    def __init__(
        self, journals: Journals, *, job_id: str, epoch: int, next_seq: int, publish: Publish | None = None
    ) -> None:
        self._journals = journals
        self._job_id = job_id
        self._epoch = epoch
        self._next_seq = next_seq
        self._publish = publish
        self._pending: list[JournalRow] = []
        self._lock = asyncio.Lock()
        self._failure: TtcError | None = None

    @property
    def needs_marks(self) -> bool:
        """Whether anybody could ever resume from progress marks."""
        return self._journals.is_durable

    def add(self, kind: str, data: dict[str, Any]) -> None:  # Any: JSON values
        """Notes a row; it is durable after the next `flush`."""
        self._pending.append(JournalRow(self._next_seq, kind, data))
        self._next_seq += 1

    async def flush(self, *, state: JobState | None = None, result: dict[str, Any] | None = None) -> None:
        """Makes all rows noted so far durable.

        Raises:
            LeaseLost: Another controller has the job.
            StoreFailed: The store cannot be written. Either error is final: later calls raise it again.
        """
        async with self._lock:
            if self._failure is not None:
                raise self._failure
            rows, self._pending = self._pending, []
            if not rows and state is None:
                return
            try:
                await self._journals.append(self._job_id, self._epoch, rows, state=state, result=result)
            except TtcError as error:
                self._failure = error
                raise
        if self._publish is not None:
            for row in rows:
                self._publish(Event.of(row))

    async def write(self, kind: str, data: dict[str, Any]) -> None:  # Any: JSON values
        """Notes a row and makes it durable."""
        self.add(kind, data)
        await self.flush()
