"""Answers found by a caller's regular expression, which may be slow on purpose.

Python's engine cannot be interrupted and holds the interpreter's lock, so the search runs in a worker process and
the calling thread waits for it for a moment at most.
"""

from __future__ import annotations

import logging
import re

from orchestrator.errors import InvalidRequest
from orchestrator.isolation import KillablePool, RemoteError, WorkerDied

_LOG = logging.getLogger(__name__)

WINDOW_CHARS = 20_000
"""How much of the end of a text is searched."""

_MAX_PATTERN_CHARS = 500
_MAX_TIMEOUTS = 3


class PatternSearch:
    """Finds the last match of one pattern.

    Args:
        pattern: A regular expression of Python's.
        timeout_s: Most seconds per search; the calling thread waits that long. After three searches that took longer,
            nothing is searched any more.

    Raises:
        InvalidRequest: It is no regular expression.
    """

    def __init__(self, pattern: str, *, timeout_s: float = 0.25) -> None:
        if len(pattern) > _MAX_PATTERN_CHARS:
            raise _refused(pattern, f"it is longer than {_MAX_PATTERN_CHARS} characters")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise _refused(pattern, str(error)) from None
        self._pattern = pattern
        self._timeout_s = timeout_s
        self._pool = KillablePool()
        self._num_timeouts = 0

    def last_match(self, text: str) -> str | None:
        """The first group that is not empty (without groups, the whole) of the last match; None if it took too long."""
        if self._num_timeouts >= _MAX_TIMEOUTS:
            return None
        try:
            matches: list[str | tuple[str, ...]] = self._pool.run_blocking(
                re.findall, self._pattern, text[-WINDOW_CHARS:], timeout_s=self._timeout_s
            )
        except TimeoutError:
            self._num_timeouts += 1
            _LOG.warning("answer pattern took too long", extra={"timeout_s": self._timeout_s})
            return None
        except (RemoteError, WorkerDied) as error:
            _LOG.warning("answer pattern could not be searched", extra={"error": error.code})
            return None
        for match in reversed(matches):
            groups = (match,) if isinstance(match, str) else match
            for group in groups:
                if group.strip():
                    return group.strip()
        return None

    async def aclose(self) -> None:
        """Ends the worker; safe to call twice."""
        await self._pool.aclose()


def _refused(pattern: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"the answer pattern cannot be used: {reason}", field="answer", value=f"regex:{pattern}")
