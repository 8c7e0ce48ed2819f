"""Bodies as JSON that every store, engine and client can carry: what Python would read beyond that is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from orchestrator.errors import InvalidRequest

MAX_WHOLE = 2**63
"""Whole numbers are below this, and above its negative: what databases and other languages can hold."""
_SHOWN_CHARS = 100


def strict_json(body: bytes) -> Any:  # Any: a JSON value
    """The value that a body holds.

    Raises:
        InvalidRequest: It is no JSON, or holds NaN, infinity, a number out of range, a NUL character, half a
            character (a lone surrogate), or the same key twice.
    """
    try:
        value = _DECODER.decode(body.decode("utf-8"))
        if b"\\u" in body or b"\0" in body:
            _check_texts(value)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (at byte {error.start})", field="body") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is no JSON: {error.msg} (line {error.lineno}, column {error.colno})", field="body"
        ) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", field="body") from None
    return value


class StrictRoute(APIRoute):
    """A route that reads bodies with `strict_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, with another way to read JSON. Any: FastAPI's types."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            is_strict = isinstance(request, StrictRequest)
            return await handle(request if is_strict else StrictRequest(request.scope, request.receive))

        return handle_strictly


class StrictRequest(Request):
    """A request whose body is read with `strict_json`."""

    async def json(self) -> Any:  # Any: a JSON value
        """The body.

        Raises:
            InvalidRequest: As `strict_json` does.
        """
        if not hasattr(self, "_strict"):
            self._strict = strict_json(await self.body())
        return self._strict


def _no_constant(name: str) -> None:
    raise InvalidRequest(f"the body holds {name}, which is no JSON", field="body", value=name)


def _whole(text: str) -> int:
    if len(text) > 20 or not -MAX_WHOLE < (value := int(text)) < MAX_WHOLE:
        raise InvalidRequest("the body holds a whole number of more than 63 bits", field="body", value=text)
    return value


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidRequest("the body holds a number that is too large", field="body", value=text)
    return value


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    """Which of two values is meant, readers of JSON disagree about."""
    found = dict(items)
    if len(found) == len(items):
        return found
    key = next(key for key, times in Counter(key for key, _ in items).items() if times > 1)[:_SHOWN_CHARS]
    raise InvalidRequest(f"the body has the key {key!r} twice", field=key)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_whole, parse_float=_real, object_pairs_hook=_object)


def _check_texts(value: Any) -> None:  # Any: a JSON value
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest("the body holds a NUL character", field="body")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("the body holds half a character (a lone surrogate)", field="body") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key)
            _check_texts(item)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)
