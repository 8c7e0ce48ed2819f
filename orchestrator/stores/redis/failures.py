"""What errors of Redis and of the way to it mean for people."""

from __future__ import annotations

from redis import exceptions

from orchestrator.errors import StoreFailed

TO_RETRY = (
    exceptions.MovedError,
    exceptions.AskError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.NoScriptError,
    exceptions.ReadOnlyError,
)
"""Answers that say the call was not carried out and may be in a moment."""


def failure(error: BaseException, shown: str) -> StoreFailed:
    """The error for callers.

    Args:
        error: Of redis-py, of the socket, or a timeout.
        shown: The server, fit for messages.
    """
    return StoreFailed(f"the store {shown!r} {_reason(error)} ({_detail(error)})", url=shown)


def _reason(error: BaseException) -> str:
    text = str(error)
    for kinds, reason in _REASONS:
        if isinstance(error, kinds):
            return reason
    for start, reason in _BEGINNINGS.items():
        if text.startswith(start):
            return reason
    return "failed"


def _detail(error: BaseException) -> str:
    return str(error) or type(error).__name__


_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError),
        "refuses this user or password; give them in the URL: redis://user:password@host:port",
    ),
    ((exceptions.BusyLoadingError,), "is still loading its data; try again in a moment"),
    (
        (exceptions.OutOfMemoryError,),
        "could not be written: redis-server has reached maxmemory; purge finished jobs or raise it",
    ),
    ((exceptions.NoPermissionError,), "does not allow this user what a store needs (see docs/howto/redis.md)"),
    ((exceptions.ReadOnlyError,), "cannot be written: this redis-server is a read-only replica; name the primary"),
    ((exceptions.ClusterDownError,), "cannot be used: the Redis cluster is down"),
    ((exceptions.ConnectionError, ConnectionError), "cannot be reached; is redis-server running there?"),
    ((exceptions.TimeoutError, TimeoutError), "does not answer in time"),
    ((OSError,), "cannot be reached; is redis-server running there?"),
)
_BEGINNINGS = {
    "MISCONF": "could not be written: redis-server cannot save to its disk",
    "NOREPLICAS": "could not be written: redis-server has too few replicas",
    "WRONGTYPE": "holds other data under this prefix; choose another one with ?prefix=",
}
