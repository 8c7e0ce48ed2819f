"""Names of jobs."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: no i, l, o, u; sorts as it counts."""
_TIME_DIGITS = 11
_RANDOM_DIGITS = 9


def new_job_id(*, now: float | None = None) -> str:
    """A new id, 20 letters and digits; ids sort by the microsecond in which they were made (until the year 3111).

    Args:
        now: Seconds since the epoch; None for the machine's clock.
    """
    microseconds = time.time_ns() // 1000 if now is None else int(now * 1e6)
    return _digits(microseconds, _TIME_DIGITS) + _digits(secrets.randbits(5 * _RANDOM_DIGITS), _RANDOM_DIGITS)


def _digits(number: int, width: int) -> str:
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(width)))
