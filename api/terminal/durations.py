"""Durations as people write them on the command line."""

from __future__ import annotations

import re

from orchestrator.errors import InvalidRequest

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])")


def seconds_of(text: str, *, option: str) -> float:
    """Seconds, from for instance ``30d``.

    Raises:
        InvalidRequest: It is no number with a unit.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"{option} must be a number and a unit (s, m, h, d, w), for instance 30d, not {text!r}",
            field=option.lstrip("-").replace("-", "_"),
            value=text,
        )
    return float(match[1]) * _UNITS_S[match[2]]
