"""Which store a caller means."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from orchestrator.errors import InvalidRequest
from orchestrator.store import Store
from orchestrator.stores.memory import MemoryStore
from orchestrator.stores.sqlite import SqliteStore


async def open_store(value: str | Path | Store | None = None) -> Store:
    """A store from what names it.

    Args:
        value: ``memory:`` or None for memory only; ``sqlite:PATH`` or a path for a file; a store is given back as is.

    Raises:
        InvalidRequest: The text names no kind of store.
        StoreFailed: The file cannot be opened.
    """
    if value is None or value == "memory:":
        return MemoryStore()
    if not isinstance(value, str | Path):
        return value
    return await asyncio.to_thread(SqliteStore, _path(value))


def _path(value: str | Path) -> Path:
    if isinstance(value, Path):
        return value.expanduser()
    path = value
    if value.startswith("sqlite:"):
        path = value.removeprefix("sqlite:").removeprefix("//")
    elif "://" in value or not value.strip():
        raise InvalidRequest(
            f"cannot open {value!r} as a store; write memory:, sqlite:PATH or a path", field="store", value=value
        )
    if not path.strip() or "\0" in path:
        raise InvalidRequest(f"{value!r} names no file; write for instance sqlite:j.sqlite", field="store", value=value)
    return Path(path).expanduser()


def default_store_path() -> Path:
    """Where the command line keeps jobs: ``jobs.sqlite`` in ``$TTC_DATA_DIR``, else in the user's data folder."""
    if given := os.environ.get("TTC_DATA_DIR"):
        return Path(given).expanduser() / "jobs.sqlite"
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "ttc" / "jobs.sqlite"
