"""Which requests are sent again, how often, and how long to wait before: the same for both clients, without any I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from orchestrator.client.failures import error_of, unreachable

_REFUSED = frozenset({429, 503})
_BUSY = _REFUSED | {502, 504}
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 8.0
_LONGEST_WISH_S = 60.0
"""A service that wants more patience than this is left alone: the error tells how long it asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """How patient a client is.

    Attributes:
        max_retries: How often a request is sent again, at most; 0 for never.
        random: Gives numbers in [0, 1); spreads the waits of many clients.
    """

    max_retries: int = 4
    random: Callable[[], float] = random.random

    def attempts(self, base_url: str, *, is_repeatable: bool = True) -> Attempts:
        """A new count of attempts, for one request or one stream.

        Args:
            base_url: For messages.
            is_repeatable: Whether sending it twice does no harm; if not, only a refusal for load is tried again.
        """
        return Attempts(self, base_url, is_repeatable=is_repeatable)


class Attempts:
    """Counts the attempts of one request and says what follows from each failure."""

    def __init__(self, retrying: Retrying, base_url: str, *, is_repeatable: bool) -> None:
        self._retrying = retrying
        self._base_url = base_url
        self._is_repeatable = is_repeatable
        self._failures = 0

    def succeeded(self) -> None:
        """Starts the count anew: a stream that delivers is not failing."""
        self._failures = 0

    def wait_after(self, error: httpx.HTTPError) -> float:
        """Seconds to wait before the next attempt, after a connection that failed or an answer that is no success.

        Raises:
            TtcError: There is no next attempt.
        """
        if isinstance(error, httpx.HTTPStatusError):
            return self._wait_after_refusal(error.response)
        never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        is_worth_it = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        wait_s = self._next_wait() if is_worth_it and (self._is_repeatable or never_sent) else None
        if wait_s is None:
            raise unreachable(self._base_url, error) from error
        return wait_s

    def _wait_after_refusal(self, response: httpx.Response) -> float:
        wish_s = _retry_after(response.headers)
        is_worth_it = response.status_code in _BUSY and (wish_s or 0.0) <= _LONGEST_WISH_S
        has_done_nothing = response.status_code in _REFUSED
        wait_s = self._next_wait() if is_worth_it and (self._is_repeatable or has_done_nothing) else None
        if wait_s is None:
            raise error_of(response)
        return wait_s if wish_s is None else wish_s + wait_s / 4

    def _next_wait(self) -> float | None:
        """Doubles from a quarter of a second, each between half and all of it at random; None after the last."""
        if self._failures >= self._retrying.max_retries:
            return None
        longest = min(_FIRST_WAIT_S * 2.0**self._failures, _LONGEST_WAIT_S)
        self._failures += 1
        return longest * (0.5 + self._retrying.random() / 2)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the form with a date is not one that our service writes, and counts as absent."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None
