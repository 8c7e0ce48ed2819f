r"""Finds ``\boxed{...}`` in one pass over the text, so that hostile texts cost no more than long ones."""

from __future__ import annotations

import re

MAX_ANSWER_CHARS = 2000
"""Longer texts are no final answers; every later step may rely on this limit."""

_MAX_UNCLOSED_CHARS = 200
_BRACES = re.compile(r"\\(?:f?boxed\s*(?P<boxed>\{)|.)|[{}]", re.DOTALL)
_OPENING = re.compile(r"\\f?boxed\s*\{")


def last_boxed(text: str) -> str | None:
    r"""What the last closed ``\boxed{...}`` or ``\fbox{...}`` holds; of nested ones, the outermost.

    Empty boxes, those that never close, and those longer than `MAX_ANSWER_CHARS` do not count.
    """
    found: str | None = None
    open_braces: list[int] = []  # where the content of each box that is open begins; -1 for other braces
    for match in _BRACES.finditer(text):
        brace = match[0]
        if match["boxed"]:
            open_braces.append(match.end())
        elif brace == "{":
            open_braces.append(-1)
        elif brace == "}" and open_braces:
            start = open_braces.pop()
            if start >= 0 and match.start() - start <= MAX_ANSWER_CHARS:
                found = text[start : match.start()].strip() or found
    return found


def unclosed_boxed(text: str) -> str | None:
    r"""What a ``\boxed{`` that was cut off at the end of the text holds, with the braces it lacks.

    Only its first line counts: a model that has finished may write on without closing the box.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    opening = _OPENING.match(text, start) if start >= 0 else None
    if opening is None or len(text) - opening.end() > _MAX_UNCLOSED_CHARS:
        return None
    lines = text[opening.end() :].strip().splitlines()
    if not lines:
        return None
    content = lines[0].strip().rstrip("$\\").strip()
    depth = 0
    for match in _BRACES.finditer(content):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth < 0:
            return None
    return content + "}" * depth if content else None
