"""From answers that are no success to the errors of `orchestrator.errors`."""

from __future__ import annotations

import json
from typing import Any

import httpx

from orchestrator.errors import CallerError, InvalidRequest, RunFailure, ServiceFailed, TtcError, from_fields

_SHOWN_CHARS = 200
_OPENAI_FIELDS = frozenset({"type", "param"})


def error_of(response: httpx.Response) -> TtcError:
    """The error that an answer with a status of 300 or more stands for; its body has been read.

    Ours hold ``{"error": {"code", "message", ...}}``; a proxy's may hold anything.
    """
    status = response.status_code
    if 300 <= status < 400:
        location = response.headers.get("location")
        return InvalidRequest(
            f"the service redirects to {location!r}; the API key is sent to no address but the given one, so give "
            "base_url as that",
            field="base_url",
            value=location,
            status=status,
        )
    fields = _error_fields(response.content)
    if fields is None:
        text = " ".join(response.content.decode("utf-8", "replace").split())[:_SHOWN_CHARS]
        return ServiceFailed(
            f"the service answered with status {status}{text and ': ' + text}",
            status=status,
            is_retryable=status >= 500,
        )
    error = error_from_json(fields)
    is_unknown = type(error) is RunFailure and fields.get("code") != RunFailure.code
    return CallerError(error.message, status=status) if is_unknown and status < 500 else error


def error_from_json(fields: dict[str, Any]) -> TtcError:  # Any: JSON values
    """An error as the service writes it in bodies, results and batches."""
    kept = {name: value for name, value in fields.items() if name not in _OPENAI_FIELDS and _is_safe(name)}
    code = str(fields.get("code") or fields.get("type") or RunFailure.code)
    return from_fields({**kept, "code": code, "message": str(fields.get("message", code))})


def unreachable(base_url: str, error: httpx.HTTPError) -> ServiceFailed:
    """What a connection that failed, or broke, or timed out, becomes."""
    reason = str(error) or type(error).__name__
    return ServiceFailed(f"the service at {base_url} cannot be reached: {reason}")


def _error_fields(body: bytes) -> dict[str, Any] | None:  # Any: JSON values
    try:
        found = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, dict) and "message" in found else None


def _is_safe(name: str) -> bool:
    """Fields become attributes; none may hide one that every error has."""
    return name.isidentifier() and not name.startswith("_") and not hasattr(TtcError, name) and name != "message"
