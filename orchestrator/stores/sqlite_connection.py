"""Opening an SQLite file as a store: its kind and version, and what SQLite's errors mean for people."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Literal

from orchestrator.errors import StoreFailed
from orchestrator.stores import sqlite_schema

Durability = Literal["process", "power"]

BUSY_TIMEOUT_S = 15.0
"""How long one process waits for another that is writing."""
_APPLICATION_ID = 0x74746331  # "ttc1"
_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}


def connect(path: Path, *, durability: Durability, must_exist: bool = False) -> sqlite3.Connection:
    """A connection to the store at ``path``, made if there is none; usable from any one thread at a time.

    Raises:
        StoreFailed: It cannot be opened, is no store, or was written by a later version.
    """
    try:
        if not must_exist:
            _make_private(path)
        elif not path.exists():
            raise StoreFailed(f"the store {str(path)!r} is not there any more", path=str(path))
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise failure(error, path) from error
    try:
        _prepare(connection, path, durability)
    except sqlite3.Error as error:
        connection.close()
        raise failure(error, path) from error
    except StoreFailed:
        connection.close()
        raise
    return connection


def failure(error: OSError | sqlite3.Error, path: Path) -> StoreFailed:
    """What an error means."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reason = _REASONS.get(code)
    if isinstance(error, OSError):
        reason = "cannot be opened"
    if reason is None:
        reason = "failed"
    if path.is_dir():
        reason = "is a folder; name a file in it"
    return StoreFailed(f"the store {str(path)!r} {reason} ({error})", path=str(path))


_REASONS = {
    sqlite3.SQLITE_FULL: "could not be written: the disk is full; free some space, then go on",
    sqlite3.SQLITE_IOERR: "could not be read or written: the disk is full or damaged, or a limit on file sizes was met",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only for this user",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "cannot be opened: permission denied",
    sqlite3.SQLITE_BUSY: f"has been locked by another process for {BUSY_TIMEOUT_S:g} s",
    sqlite3.SQLITE_LOCKED: "is locked",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a copy, or save what can be read with: sqlite3 FILE .recover",
    sqlite3.SQLITE_NOTADB: "is not a store of ttc but some other file; choose another path",
}


def _make_private(path: Path) -> None:
    """Creates the file for this user only: journals hold prompts. SQLite gives its side files the same rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path, durability: Durability) -> None:
    _check_kind(connection, path)
    _use_wal(connection)
    connection.execute(f"PRAGMA synchronous={_SYNCHRONOUS[durability]}")
    connection.execute("PRAGMA journal_size_limit=67108864")
    if _pragma(connection, "user_version") == sqlite_schema.VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        if version < sqlite_schema.VERSION:  # nobody else was faster
            sqlite_schema.upgrade(connection, version=version)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    version = _pragma(connection, "user_version")
    has_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
    if has_tables and _pragma(connection, "application_id") != _APPLICATION_ID:
        raise StoreFailed(
            f"the store {str(path)!r} is an SQLite database of another program; choose another path", path=str(path)
        )
    if version > sqlite_schema.VERSION:
        raise StoreFailed(
            f"the store {str(path)!r} was written by a later version of ttc (schema {version}, this one knows "
            f"{sqlite_schema.VERSION}); upgrade ttc-orchestrator",
            path=str(path),
            schema_version=version,
        )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switches to the write-ahead log; SQLite does not wait for others here, so this does."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
