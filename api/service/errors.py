"""Errors as responses: one shape everywhere, OpenAI's, with our own fields beside; never a stack trace."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from orchestrator.errors import (
    BudgetExhausted,
    InvalidRequest,
    RunFailure,
    ServiceStopping,
    StoreFailed,
    TooManyRequests,
    TtcError,
    UnknownName,
    mapping_of,
)

_LOG = logging.getLogger(__name__)

_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
"""OpenAI's name for a kind of error, by status."""
_SHOWN_CHARS = 200
"""Of what a caller sent, in a message."""
_RETRY_S: dict[type[TtcError], float] = {StoreFailed: 5.0, ServiceStopping: 1.0}


def error_body(error: TtcError) -> dict[str, Any]:  # Any: JSON values
    """``{"error": {"message", "type", "param", "code", ...fields}}``."""
    return _body(error, mapping_of(error).http_status)


def error_response(error: TtcError) -> Response:
    """The response that an error is, with its status and, where asking again may help, ``Retry-After``."""
    status = mapping_of(error).http_status
    headers: dict[str, str] = {}
    retry_s = error.retry_after_s if isinstance(error, TooManyRequests) else _RETRY_S.get(type(error))
    if retry_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_s)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(_body(error, status), status, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Maps whatever endpoints raise."""
    app.add_exception_handler(TtcError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _body(error: TtcError, status: int) -> dict[str, Any]:  # Any: JSON values
    if isinstance(error, UnknownName) and error.kind == "job":  # a store names its latest jobs, whoever's they are
        error = UnknownName(kind="job", name=error.name, known=())
    fields = error.fields()
    if isinstance(error, BudgetExhausted):
        fields["message"] = f"{error.message}; this API key's budget does not pay for it"
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    told = {"message": fields["message"], "type": kind, "param": fields.get("field"), "code": error.code}
    return {"error": {**fields, **told}}


def _response(body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:  # as above
    text = json.dumps(body, default=str)  # in ASCII: what a caller sent may hold what cannot be encoded
    return Response(text, status_code=status, headers=dict(headers or {}), media_type="application/json")


async def _ours(request: Request, error: Exception) -> Response:  # noqa: ARG001  # starlette's signature
    assert isinstance(error, TtcError), "registered for these only"
    if isinstance(error, RunFailure):
        _LOG.warning("a request failed", extra={"code": error.code, "reason": error.message})
    return error_response(error)


async def _invalid(request: Request, error: Exception) -> Response:  # noqa: ARG001  # as above
    assert isinstance(error, RequestValidationError), "registered for these only"
    return error_response(invalid_request(error.errors(), error.body))


def invalid_request(problems: Sequence[Mapping[str, Any]], body: Any) -> InvalidRequest:  # Any: pydantic's, JSON
    """What pydantic found, in one sentence and by the names that the caller used.

    Where a value may be of several kinds there is a complaint by each of them; the one that got furthest is told.
    """
    found = [(_place(problem, body), problem) for problem in problems]
    first = found[0][0]
    same = [(place, problem) for place, problem in found if place[: len(first)] == first]
    place, problem = max(same, key=lambda item: (len(item[0]), not item[1]["type"].endswith("_type")))
    field = ".".join(place)
    return InvalidRequest(f"{field}: {_reason(problem, body)}", field=field)


def _reason(problem: Mapping[str, Any], body: Any) -> str:  # Any: pydantic's, a JSON value or bytes
    if problem["type"] == "extra_forbidden":
        return "there is no such field"
    if isinstance(body, bytes) and problem["type"] != "missing":
        return "it is not taken for JSON; send the header Content-Type: application/json"
    return str(problem["msg"]).removeprefix("Value error, ")


def _place(problem: Mapping[str, Any], body: Any) -> tuple[str, ...]:  # Any: pydantic's, a JSON value
    """Where a value is in the body; pydantic also names the kind that it was tried as, which nobody has sent."""
    parts: Sequence[str | int] = problem["loc"]
    if parts[0] != "body":
        return tuple(str(part) for part in parts[1:] or parts)
    place, value = [], body
    for part in parts[1:]:
        if part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int):
            value = value[part]
            place.append(str(part))
    if problem["type"] == "missing":
        place.append(str(parts[-1]))
    return tuple(place) or ("body",)


async def _http(request: Request, error: Exception) -> Response:
    """What the framework refuses: unknown paths and methods, bodies that are no JSON."""
    assert isinstance(error, HTTPException), "registered for these only"
    if isinstance(error.__cause__, TtcError):  # raised while the body was read
        return error_response(error.__cause__)
    status = error.status_code
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    message = str(error.detail)
    if status in {404, 405}:
        message = f"{request.method[:_SHOWN_CHARS]} {request.url.path[:_SHOWN_CHARS]} is not served here; see /docs"
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return _response({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    _LOG.critical("a request met a bug", exc_info=error, extra={"path": request.url.path})
    return error_response(RunFailure("an unexpected error, which is a bug in ttc or in a plug-in; see the log"))
