"""Answers found by a caller's regular expression, which must not be able to stall the event loop.

A pattern is searched in the end of the text only, and refused if it could take more than polynomial time there.
"""

from __future__ import annotations

import re

from orchestrator.errors import InvalidRequest

WINDOW_CHARS = 1000
"""How much of the end of a text is searched. With at most two unbounded repeats this bounds the work to about
1000 ** 3 / 6 steps, a second or two at worst."""

_MAX_UNBOUNDED = 2
_MAX_VARIABLE = 8
_MAX_PATTERN_CHARS = 500
_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?(?:[aimsxu]{1,6}\)|P<\w+>|[:=!]|<[=!]|[^)]{0,20}))?)"
    r"|(?P<close>\))|(?P<repeat>[*+?]|\{\d*(?:,\d*)?\})|(?P<either>\|)|.",
    re.DOTALL,
)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, if it is safe to run on hostile text.

    Raises:
        InvalidRequest: It is no regular expression, or one of those that may take exponential time.
    """
    reason = _danger(pattern)
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reason = f"it is no regular expression: {error}"
    if reason is not None:
        raise InvalidRequest(f"the answer pattern {pattern[:80]!r} cannot be used: {reason}", field="answer")
    return expression


def last_match(expression: re.Pattern[str], text: str) -> str | None:
    """The first group (or else the whole) of the last match that is not empty."""
    found = None
    for match in expression.finditer(text[-WINDOW_CHARS:]):
        groups = [group for group in match.groups() if group]
        found = (groups[0] if groups else match[0]).strip() or found
    return found


def _danger(pattern: str) -> str | None:
    """Why the pattern may be slow; errs on the side of refusing."""
    if len(pattern) > _MAX_PATTERN_CHARS:
        return f"it is longer than {_MAX_PATTERN_CHARS} characters"
    is_variable = [False]  # by open group: whether its length can vary
    last_group_varies = False
    num_variable = num_unbounded = 0
    previous = ""
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup or ""
        if (kind == "escaped" and token["escaped"] in "123456789g") or token[0].startswith("(?P="):
            return "it refers back to a group"
        if kind == "open":
            is_variable.append(False)
            if token[0].endswith(")"):  # (?i)
                is_variable.pop()
        elif kind == "close" and len(is_variable) > 1:
            last_group_varies = is_variable.pop()
            is_variable[-1] |= last_group_varies
        elif kind == "either":
            is_variable[-1] = True
        elif kind == "repeat" and previous != "repeat":
            is_unbounded = token[0] in "*+" or token[0].endswith(",}")
            if previous == "close" and last_group_varies and token[0] != "?":
                return "it repeats a group whose length varies"
            is_variable[-1] = True
            num_variable += 1
            num_unbounded += is_unbounded
        previous = kind
    if num_unbounded > _MAX_UNBOUNDED:
        return f"it has more than {_MAX_UNBOUNDED} unbounded repeats"
    if num_variable > _MAX_VARIABLE:
        return f"it has more than {_MAX_VARIABLE} repeats"
    return None
