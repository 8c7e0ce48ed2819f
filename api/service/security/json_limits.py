"""Looks over JSON before it is parsed: how deep it is nested, and how many keys and elements it has."""

from __future__ import annotations

import re

from orchestrator.errors import InvalidRequest

_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
"""Strings as a whole, and the marks between values; possessive, so that no text makes it slow."""
_MARKS_PER_ITEM = 4
"""A key, a value, a comma or an opening mark, a closing mark: more of them are no JSON."""
_QUOTE, _OPENING, _CLOSING = b'"'[0], b"[{", b"]}"


def check_json(body: bytes, *, max_depth: int, max_items: int) -> None:
    """Refuses what would take too long or too much stack to parse; what is no JSON at all is left to the parser.

    Raises:
        InvalidRequest: It is nested too deeply, has too many keys and elements, or is not UTF-8.
    """
    if b"\0" in body:  # UTF-16 and UTF-32, in which the marks cannot be told apart
        raise InvalidRequest("the body must be JSON in UTF-8", field="body")
    depth = num_items = 0
    for num_marks, found in enumerate(_MARKS.finditer(body)):
        mark = body[found.start()]
        if mark in _OPENING:
            depth += 1
            num_items += 1
        elif mark in _CLOSING:
            depth -= 1
        elif mark != _QUOTE:
            num_items += 1
        if depth > max_depth:
            raise InvalidRequest(f"the body is nested deeper than {max_depth} levels", field="body")
        if num_items > max_items or num_marks > _MARKS_PER_ITEM * max_items:
            raise InvalidRequest(f"the body has more than {max_items} keys and elements", field="body")
        if depth < 0:
            return
