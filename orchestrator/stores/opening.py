"""Which store a caller means."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.store import Store
from orchestrator.stores.memory import MemoryStore
from orchestrator.stores.sqlite import SqliteStore


async def open_store(value: str | Path | Store | None = None) -> Store:
    """A store from what names it.

    Args:
        value: ``memory:`` or None for memory only; ``sqlite:PATH`` or a path for a file; ``redis://HOST:PORT/NUMBER``,
            ``rediss://...`` or ``unix://SOCKET`` for a Redis server; a store is given back as is.

    Raises:
        InvalidRequest: The text names no kind of store.
        MissingDependency: The package redis is not installed.
        StoreFailed: The file cannot be opened, or the server cannot be reached or used.
    """
    if value is None or value == "memory:":
        return MemoryStore()
    if not isinstance(value, str | Path):
        return value
    if str(value).startswith(_REDIS_SCHEMES):
        return await _open_redis(str(value))
    return await asyncio.to_thread(SqliteStore, _path(value))


_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def shown_store(value: str) -> str:
    """What names a store, fit for messages: a Redis URL without user, password and options."""
    if not value.startswith(_REDIS_SCHEMES):
        return value
    scheme, _, rest = value.partition("://")
    place, _, options = rest.partition("?")
    is_clear = "@" in place or "@" not in options
    return f"{scheme}://{place.rpartition('@')[2] if is_clear else '...'}"


async def _open_redis(url: str) -> Store:
    try:
        from orchestrator.stores.redis import RedisStore
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise MissingDependency(package="redis", extra="service", purpose="a store on a Redis server") from None
    return await RedisStore.open(url)


def _path(value: str | Path) -> Path:
    if isinstance(value, Path):
        return value.expanduser()
    path = value
    if value.startswith("sqlite:"):
        path = value.removeprefix("sqlite:").removeprefix("//")
    elif "://" in value or not value.strip():
        scheme, sign, _ = value.partition("://")
        shown = f"{scheme}{sign}..." if sign else value  # the rest may hold a password
        raise InvalidRequest(
            f"cannot open {shown!r} as a store; write memory:, sqlite:PATH, a path or redis://HOST:PORT",
            field="store",
            value=shown,
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
