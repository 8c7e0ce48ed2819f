"""What went wrong upstream, in our terms: statuses, error objects and exceptions of the HTTP client, mapped once."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from orchestrator.errors import EngineFailed

_Json = Mapping[str, Any]  # Any: JSON values

_SHOWN_CHARS = 300
_MOMENTARY_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_OVERFLOW_TEXT = re.compile(
    r"maximum context length|context (?:length|window|size).*(?:exceed|too (?:long|large))"
    r"|(?:exceeds?|longer than|larger than) .*context (?:length|window|size)",
    re.IGNORECASE | re.DOTALL,
)
_PROMPT_TOKENS = (
    re.compile(r"\(?(\d+) in (?:the|your) (?:messages|prompt|input)"),
    re.compile(r"(?:resulted in|request has|input has|prompt contains|contains at least) (\d+) (?:input )?tokens"),
    re.compile(r"[Ii]nput \((\d+) tokens\)"),
)
_CONTEXT_LENGTH = (
    re.compile(r"maximum context length (?:is|of) (\d+)"),
    re.compile(r"context (?:length|window|size) (?:is |of )?\(?(\d+)"),
)
_FINAL_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "invalid_api_key", "model_not_found"})


class UpstreamFailed(Exception):
    """An attempt failed.

    Attributes:
        is_retryable: Whether another attempt may succeed.
        retry_after_s: What the server asks to wait.
        status: The HTTP status, 0 where there was none.
    """

    def __init__(
        self, message: str, *, is_retryable: bool = True, retry_after_s: float | None = None, status: int = 0
    ) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable
        self.retry_after_s = retry_after_s
        self.status = status


class PromptTooLong(Exception):
    """The server says that prompt and reply do not fit.

    Attributes:
        prompt_tokens: Length of the prompt; None if the server does not say.
        context_length: What it reads; None if it does not say.
    """

    def __init__(self, prompt_tokens: int | None, context_length: int | None) -> None:
        super().__init__(prompt_tokens, context_length)
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class Failures:
    """Makes errors about one server, with everything secret struck out.

    Args:
        model: As the fleet calls it.
        host: The server, for people.
        secrets: Texts that must never be shown.
    """

    def __init__(self, *, model: str, host: str, secrets: Iterable[str]) -> None:
        self._model = model
        self._host = host
        self._secrets = tuple(secret for secret in secrets if secret)

    def engine_failed(self, error: UpstreamFailed) -> EngineFailed:
        """The error as callers of an engine see it."""
        return EngineFailed(
            f"model {self._model!r} at {self._host}: {self.shown(str(error))}",
            model=self._model,
            is_retryable=error.is_retryable,
        )

    def shown(self, text: str) -> str:
        """A text from outside, shortened, without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."

    def of_status(self, status: int, headers: Mapping[str, str], body: str) -> UpstreamFailed | PromptTooLong:
        """What a reply without success means."""
        if 300 <= status < 400:
            return UpstreamFailed(
                "answers with a redirect, which is not followed; set base_url to where it leads",
                is_retryable=False,
                status=status,
            )
        return self.of_error(
            _error_in(body), status=status, retry_after_s=_retry_after_s(headers.get("Retry-After", ""))
        )

    def of_error(
        self, error: _Json, *, status: int = 0, retry_after_s: float | None = None
    ) -> UpstreamFailed | PromptTooLong:
        """What an error object means; ``status`` is 0 if it came inside a stream."""
        message = str(error.get("message") or error.get("detail") or "no reason given")
        codes = {str(error.get(key)) for key in ("code", "type")}
        if status in {0, 400, 413, 422, 500} and (codes & _OVERFLOW_CODES or _OVERFLOW_TEXT.search(message)):
            return PromptTooLong(
                _number(error.get("n_prompt_tokens"), message, _PROMPT_TOKENS),
                _number(error.get("n_ctx"), message, _CONTEXT_LENGTH),
            )
        code = error.get("code")
        status = status or (code if isinstance(code, int) else 0)
        is_retryable = (status in _MOMENTARY_STATUSES or status == 0) and not codes & _FINAL_CODES
        hint = "; check api_key" if status in {401, 403} else ""
        what = f"HTTP {status}" if status else "error in the stream"
        return UpstreamFailed(
            f"{what}: {message}{hint}", is_retryable=is_retryable, retry_after_s=retry_after_s, status=status
        )


def of_exception(error: Exception) -> UpstreamFailed:
    """What an exception of the HTTP client means."""
    if isinstance(error, asyncio.TimeoutError):
        return UpstreamFailed(f"no answer in time ({type(error).__name__})")
    return UpstreamFailed(f"connection failed: {str(error) or type(error).__name__}")


def _error_in(body: str) -> _Json:
    try:
        value = json.loads(body)
    except (json.JSONDecodeError, RecursionError):
        return {"message": " ".join(body.split())}
    if not isinstance(value, dict):
        return {"message": body}
    error = value.get("error", value)
    return error if isinstance(error, dict) else {"message": str(error)}


def _number(stated: Any, message: str, patterns: Iterable[re.Pattern[str]]) -> int | None:  # Any: JSON value
    if isinstance(stated, int):
        return stated
    for pattern in patterns:
        if found := pattern.search(message):
            return int(found.group(1))
    return None


def _retry_after_s(value: str) -> float | None:
    """Seconds, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - datetime.datetime.now(date.tzinfo)).total_seconds())
