"""Writes a job's journal: rows are gathered, and whoever needs them durable waits for one append of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.errors import StoreFailed, TtcError
from orchestrator.events import Event, Publish
from orchestrator.store import Change, JobState, JournalRow, Journals

Create = Callable[[Change], Awaitable[None]]
"""Creates a job together with the first append to its journal."""

_GATHER_S = 0.02
"""Rows that nobody waits for are written so long after the first of them: a job that is faster is one append."""


class Recorder:
    """The only writer of one job's journal while its lease is held.

    Invariant of the lock: at most one append is under way, and rows reach the store in the order of their positions.

    Args:
        journals: The store.
        job_id: The job.
        epoch: Of the claim.
        next_seq: Position of the next row.
        publish: Told each row when it is durable.
        waits: Whether `flush` waits for the store. Where nobody can resume the job, its rows are written in the
            background, those of `_GATHER_S` at once; only its end is waited for.
        create: Takes the place of the first append, for a job that is not in the store yet; None for one that is.
    """

    def __init__(
        self,
        journals: Journals,
        *,
        job_id: str,
        epoch: int,
        next_seq: int,
        publish: Publish | None = None,
        waits: bool = True,
        create: Create | None = None,
    ) -> None:
        self._journals = journals
        self._create = create
        self._job_id = job_id
        self._epoch = epoch
        self._next_seq = next_seq
        self._publish = publish
        self._pending: list[JournalRow] = []
        self._lock = asyncio.Lock()
        self._failure: TtcError | None = None
        self._is_over = False
        self._waits = waits
        self._background: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def needs_marks(self) -> bool:
        """Whether anybody could ever resume from progress marks."""
        return self._journals.is_durable

    def add(self, kind: str, data: dict[str, Any]) -> None:  # Any: JSON values
        """Notes a row; it is durable after the next `flush`."""
        self._pending.append(JournalRow(self._next_seq, kind, data))
        self._next_seq += 1

    async def flush(self, *, state: JobState | None = None, result: dict[str, Any] | None = None) -> None:
        """Makes all rows noted so far durable, or has that begun (see ``waits``).

        Raises:
            LeaseLost: Another controller has the job.
            StoreFailed: The store cannot be written. Either error is final: later calls raise it again.
        """
        if self._waits or state is not None:
            await self._write(state=state, result=result)
            return
        if self._failure is not None:
            raise self._failure
        if (self._pending or self._create is not None) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._begin_writing)

    def _begin_writing(self) -> None:
        self._timer = None
        if self._background is None or self._background.done():
            # No task group: it ends by itself, and the append of the job's end waits for it.
            self._background = asyncio.ensure_future(self._write_pending())

    async def _write_pending(self) -> None:
        try:
            while self._pending or self._create is not None:
                await self._write(state=None, result=None)
        except TtcError:
            return  # the next `flush` raises it

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _write(self, *, state: JobState | None, result: dict[str, Any] | None) -> None:  # Any: JSON values
        async with self._lock:
            if self._failure is not None:
                raise self._failure
            self._stop_timer()
            rows, self._pending = self._pending, []
            if not rows and state is None and self._create is None:
                return
            await self._append(rows, state=state, result=result)

    async def let_go(self, state: JobState, *, final: dict[str, Any] | None = None) -> None:
        """Gives the job back: rows that are not durable yet are dropped, as if the process had died, and so is the
        lease. One whose end is written stays as it is.

        Args:
            state: What becomes of the job.
            final: Data of its ``final`` row, if it ends with that.

        Raises:
            LeaseLost, StoreFailed: As `flush` does.
        """
        async with self._lock:
            self._stop_timer()
            seq = self._pending[0].seq if self._pending else self._next_seq
            self._pending.clear()
            if self._failure is None and not self._is_over:
                rows = [] if final is None else [JournalRow(seq, "final", final)]
                await self._append(rows, state=state, result=None if final is None else final["result"])

    async def _append(
        self,
        rows: list[JournalRow],
        *,
        state: JobState | None,
        result: dict[str, Any] | None,  # Any: JSON values
    ) -> None:
        """One append, seen through to its end even if the caller is cancelled: nobody may write before it is known
        where the journal ends.
        """
        if self._create is not None:
            writing = asyncio.ensure_future(self._create(Change(rows, state, result)))
        else:
            append = self._journals.append(self._job_id, self._epoch, rows, state=state, result=result)
            writing = asyncio.ensure_future(append)
        cancelled: asyncio.CancelledError | None = None
        while not writing.done():
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError as error:
                cancelled = error
        try:
            writing.result()
        except TtcError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001  # rows that are no JSON values, or a store of somebody else's
            self._failure = StoreFailed(f"the journal of job {self._job_id!r} cannot be written: {error!r}")
        else:
            self._create = None
            self._is_over = self._is_over or state is not None
            self._tell(rows)
        if cancelled is not None:
            raise cancelled
        if self._failure is not None:
            raise self._failure

    def _tell(self, rows: list[JournalRow]) -> None:
        if self._publish is not None:
            for row in rows:
                self._publish(Event.of(row))

    async def write(self, kind: str, data: dict[str, Any]) -> None:  # Any: JSON values
        """Notes a row and makes it durable."""
        self.add(kind, data)
        await self.flush()
