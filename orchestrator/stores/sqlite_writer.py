"""The one thread that writes to an SQLite file: whatever waits at the same time becomes one transaction."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from orchestrator.errors import StoreFailed, TtcError
from orchestrator.stores.sqlite_connection import failure

_LOG = logging.getLogger(__name__)
_MAX_GROUP = 512

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Write:
    """One piece of a transaction: checks first, then writes, and may be run again if the transaction failed."""

    run: Callable[[sqlite3.Connection], Any]  # Any: whatever the future is of
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = None


class GroupWriter:
    """Carries out writes in the order in which they were asked for.

    A write that was asked for is carried out even if whoever awaits it is cancelled.

    Args:
        connection: In autocommit mode; used by this thread only, and closed by it.
        path: Of the file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._inode = _inode(path)
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ttc-store-writer", daemon=True)
        self._thread.start()
        self.num_commits = 0

    async def write(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """What ``run`` returns, once it is durable; its own `TtcError`s come through and undo nothing of others.

        Raises:
            StoreFailed: The transaction failed; nothing was written.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._queue.put(_Write(run, loop, future))
        return await future

    async def aclose(self) -> None:
        """Carries out what was asked for, then ends the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        is_open = True
        while is_open:
            group, is_open = self._next_group()
            if group:
                self._commit(group)
                _deliver(group)
        self._connection.close()

    def _next_group(self) -> tuple[list[_Write], bool]:
        group: list[_Write] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= _MAX_GROUP:
                return group, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Write]) -> None:
        error = self._try_commit(group)
        if error is None:
            return
        if len(group) == 1:
            group[0].error = error
            return
        for write in group:  # one of them may be at fault, for instance too long for what is left of the disk
            write.error = self._try_commit([write])

    def _try_commit(self, group: list[_Write]) -> Exception | None:
        """Runs the writes in one transaction; all or none of them."""
        try:
            self._check_file()
            self._connection.execute("BEGIN IMMEDIATE")
            for write in group:
                write.outcome, write.error = None, None
                try:
                    write.outcome = write.run(self._connection)
                except TtcError as refusal:  # refused before it wrote anything
                    write.error = refusal
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # whatever it was, those who wait must be told
            self._roll_back()
            return failure(error, self._path) if isinstance(error, sqlite3.Error | OSError) else error
        self.num_commits += 1
        return None

    def _check_file(self) -> None:
        if _inode(self._path) != self._inode:  # SQLite would go on writing to a file that no longer has a name
            raise StoreFailed(f"the store {str(self._path)!r} was moved or deleted while in use", path=str(self._path))

    def _roll_back(self) -> None:
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            _LOG.exception("rollback failed", extra={"path": str(self._path)})


def _deliver(group: list[_Write]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Write]] = defaultdict(list)
    for write in group:
        by_loop[write.loop].append(write)
    for loop, writes in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, writes)
        except RuntimeError:
            _LOG.warning("a write outlived the event loop that asked for it")


def _resolve(writes: list[_Write]) -> None:
    for write in writes:
        if write.future.done():
            continue  # nobody waits any more
        if write.error is not None:
            write.future.set_exception(write.error)
        else:
            write.future.set_result(write.outcome)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
