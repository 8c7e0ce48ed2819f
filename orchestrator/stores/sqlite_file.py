"""An SQLite file that is shared by the parts of a store: one thread writes, two read, one watches."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from orchestrator.clock import Clock
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.stores.sqlite_connection import Durability, connect, failure
from orchestrator.stores.sqlite_watcher import Watcher
from orchestrator.stores.sqlite_writer import GroupWriter

_T = TypeVar("_T")

_NUM_READERS = 2


class SqliteFile:
    """What the parts of `orchestrator.stores.sqlite.SqliteStore` are built on.

    Args:
        path: The file; made if there is none.
        durability: What an acknowledged write survives.
        clock: For leases and rates.

    Raises:
        StoreFailed: The file cannot be opened, is no store, or was written by a later version.
    """

    def __init__(self, path: Path | str, *, durability: Durability, clock: Clock) -> None:
        self.path = Path(path).absolute()
        self._clock = clock
        self._durability: Durability = durability
        self._writer = GroupWriter(connect(self.path, durability=durability), self.path)
        self._readers = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="ttc-store-reader")
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._watcher = Watcher(self._connection_for_reading, self.path)
        self._waiters = self._watcher.waiters
        self._is_closed = False

    @property
    def num_commits(self) -> int:
        """Transactions so far; fewer than writes where these were grouped."""
        return self._writer.num_commits

    async def aclose(self) -> None:
        """Writes what was asked for, ends all waits and closes the file; safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._watcher.aclose()
        await self._writer.aclose()
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reading:
            connection.close()

    async def _write(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check_open()
        try:
            return await self._writer.write(run)
        except UnicodeEncodeError as error:
            raise _unusable(error) from None

    async def _read(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, run)

    def _read_now(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connection_for_reading()
                self._reading.append(connection)
            return run(connection)
        except sqlite3.Error as error:
            raise failure(error, self.path) from error
        except UnicodeEncodeError as error:
            raise _unusable(error) from None

    def _connection_for_reading(self) -> sqlite3.Connection:
        connection = connect(self.path, durability=self._durability, must_exist=True)
        connection.execute("PRAGMA query_only=1")
        return connection

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreFailed(f"the store {str(self.path)!r} is closed", path=str(self.path))


def _unusable(error: UnicodeEncodeError) -> InvalidRequest:
    """A lone surrogate, for instance from a command line that is no UTF-8; SQLite keeps Unicode only."""
    return InvalidRequest(f"{error.object!r} is no Unicode text", field="job_id", value=ascii(error.object))
