"""Finds the last fenced code block and the last JSON object in a text."""

from __future__ import annotations

import json
from fractions import Fraction

from orchestrator.verifiers.answers.rationals import rational

_MAX_ATTEMPTS = 2000
_MAX_PARSED_CHARS = 4_000_000
_FENCES = ("```", "~~~")


def last_code_block(text: str) -> str | None:
    """The content of the last fenced block that is not empty; one cut off by the end of the text counts."""
    found: list[str] | None = None
    block: list[str] | None = None
    fence = ""
    for line in text.splitlines():
        stripped = line.strip()
        if block is None:
            if stripped.startswith(_FENCES):
                block, fence = [], stripped[:3]
        elif stripped.startswith(fence) and not stripped.strip(fence[0]):
            found, block = (block if any(map(str.strip, block)) else found), None
        else:
            block.append(line)
    if block is not None and any(map(str.strip, block)):
        found = block
    return "\n".join(found).strip("\n") if found is not None else None


def last_json(text: str, *, field: str = "") -> str | None:
    """The last JSON object in the text, outermost, as it is written; or one field of it.

    Args:
        text: What the model wrote.
        field: If given, objects without it are passed over, and its value is returned: strings as they are, other
            values as JSON.
    """
    decoder = json.JSONDecoder(parse_int=_Digits, parse_float=_Digits)
    budget = _MAX_PARSED_CHARS
    found: tuple[int, int, object] | None = None
    start = len(text)
    for _ in range(_MAX_ATTEMPTS):
        start = text.rfind("{", 0, start)
        if start < 0 or budget <= 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            budget -= error.pos - start
            continue
        except RecursionError:
            budget -= _MAX_PARSED_CHARS // 100
            continue
        budget -= end - start
        if found is not None and end < found[1]:
            break  # this one ends before the one found begins
        if isinstance(value, dict) and (not field or field in value):
            found = (start, end, value)
    if found is None:
        return None
    first, end, value = found
    if not field:
        return text[first:end]
    assert isinstance(value, dict)
    inner = value[field]
    return inner if type(inner) is str else _canonical(inner)


def canonical_json(text: str) -> str | None:
    """One form for all spellings of a JSON value; numbers are compared exactly. None if it is no JSON."""
    try:
        return _canonical(json.loads(text, parse_int=_Digits, parse_float=_Digits))
    except (ValueError, RecursionError):
        return None


class _Digits(str):
    """A JSON number as it is written: nothing is computed before its size is known."""

    __slots__ = ()


def _canonical(value: object) -> str:
    if isinstance(value, _Digits):
        number: Fraction | None = rational(value)
        return str(number) if number is not None else str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return json.dumps(value)
