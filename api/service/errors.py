"""Errors as responses: one shape everywhere, OpenAI's, with our own fields beside; never a stack trace."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from orchestrator.errors import TtcError


def error_body(error: TtcError) -> dict[str, Any]:  # Any: JSON values
    """``{"error": {"message", "type", "param", "code", ...fields}}``."""
    raise NotImplementedError


def error_response(error: TtcError) -> JSONResponse:
    """The response that an error is, with its status and, where asking again may help, ``Retry-After``."""
    raise NotImplementedError


def install_error_handlers(app: FastAPI) -> None:
    """Maps whatever endpoints raise."""
    raise NotImplementedError
