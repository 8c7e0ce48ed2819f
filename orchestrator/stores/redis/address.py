"""Which Redis server a URL means, and how to connect to it."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from orchestrator.errors import InvalidRequest

DEFAULT_PREFIX = "ttc:"
_SCHEMES = ("redis", "rediss", "unix")
_ESCAPES = "in a user and a password, write / ? # @ : as %2F %3F %23 %40 %3A"


class Wire(Protocol):
    """What is used of a connection of redis-py; most of it has no types there."""

    @property
    def is_connected(self) -> bool:
        """Whether it is open."""
        ...

    async def connect(self) -> None:
        """Opens it and introduces the user."""
        ...

    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None:
        """Sends commands that are written as Redis reads them."""
        ...

    async def send_command(self, *args: str, check_health: bool = True) -> None:
        """Sends one command."""
        ...

    async def read_response(
        self, disable_decoding: bool = False, *, disconnect_on_error: bool = True
    ) -> Any:  # Any: what Redis answers
        """The next answer."""
        ...

    async def disconnect(self, nowait: bool = False) -> None:
        """Closes it."""
        ...


class RedisAddress:
    """A server and the part of its keys that is one store.

    Args:
        url: ``redis://[[user]:password@]host[:port][/number]``, ``rediss://...`` for TLS, or
            ``unix://[[user]:password@]/path/to.sock[?db=number]``. Options behind ``?``: ``prefix`` of all keys
            (``ttc:``), ``journal_ttl_s`` (how long the journals of finished jobs are kept; for ever without it), and
            those of redis-py, for instance ``ssl_ca_certs``.

    Attributes:
        shown: The URL without user, password and options; fit for messages.
        prefix: Of all keys.
        journal_ttl_s: Seconds; None for no end.

    Raises:
        InvalidRequest: The URL cannot be understood.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme != "unix" and any("@" in text for text in (parts.path, parts.fragment, *options)):
            raise _unusable(_ESCAPES)
        try:
            place = parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
        except ValueError:  # which may quote a part of the password
            raise _unusable(f"its port cannot be read; {_ESCAPES}") from None
        if parts.scheme not in _SCHEMES or (parts.scheme == "unix" and not parts.path.strip("/")):
            raise _unusable("write redis://host:port/0, rediss://host:port/0 or unix:///path/to/redis.sock")
        number = "" if parts.scheme == "unix" else parts.path.strip("/")
        if number and not number.isdecimal():
            raise _unusable(f"the number of the database must be a whole number, not {number!r}")
        self.shown = f"{parts.scheme}://{place}" + (f"/{number}" if number else "")
        self.prefix = _prefix(options.pop("prefix", DEFAULT_PREFIX))
        self.journal_ttl_s = _ttl(options.pop("journal_ttl_s", None))
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(options)}"
        self._host = parts.hostname or "localhost"
        self._moved_to: tuple[str, int] | None = None
        try:
            self.connection()
            self.blocking_client().close()
        except (TypeError, ValueError, redis.RedisError) as error:
            raise _unusable(f"its options cannot be used ({error})") from None

    def connection(self) -> Wire:
        """A connection that is not yet open, and that neither retries nor limits time by itself."""
        pool = ConnectionPool.from_url(
            self._url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None, socket_connect_timeout=None
        )
        if self._moved_to is not None:
            pool.connection_kwargs["host"], pool.connection_kwargs["port"] = self._moved_to
        connection: Wire = pool.make_connection()  # type: ignore[no-untyped-call]  # of redis-py
        return connection

    def blocking_client(self) -> redis.Redis:
        """A client for code that may block; close it."""
        client = redis.Redis.from_url(self._url, protocol=2)
        if self._moved_to is not None:
            options = client.connection_pool.connection_kwargs
            options["host"], options["port"] = self._moved_to
        return client

    def move(self, host: str, port: int) -> None:
        """The server says that another one of its cluster has the keys; no host means the same one."""
        last = self._host if self._moved_to is None else self._moved_to[0]
        self._moved_to = (host or last, port)


def _prefix(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or set(text) & set("{}*?[]\\ "):
        raise _unusable(f"the prefix {text!r} must be of ASCII letters, digits and signs other than {{}}*?[]\\")
    return text


def _ttl(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise _unusable(f"journal_ttl_s must be a whole number of seconds of at least 1, not {text!r}")
    return int(text)


def _unusable(reason: str) -> InvalidRequest:
    """Says nothing of the URL itself: it may hold a password."""
    return InvalidRequest(f"cannot use this Redis URL as a store: {reason}", field="store")
