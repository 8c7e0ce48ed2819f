"""Compares two answers as mathematics with math-verify.

Runs in a worker process only: it may take any time and memory, and math-verify cannot be interrupted in threads.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

_FLOAT_PLACES = 6


def same_value(left: str, right: str) -> bool:
    """Whether two answers in LaTeX or plain notation have the same value, in either order of comparison."""
    from math_verify import verify

    parsed_left, parsed_right = _parsed(left), _parsed(right)
    if not parsed_left or not parsed_right:
        return False
    return any(
        verify(gold, target, float_rounding=_FLOAT_PLACES, timeout_seconds=None)
        for gold, target in ((parsed_left, parsed_right), (parsed_right, parsed_left))
    )


@lru_cache(maxsize=1000)
def _parsed(answer: str) -> list[Any]:  # Any: sympy expressions and strings
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off
    return list(parse(f"${answer}$", parsing_timeout=0))  # the worker is killed instead
