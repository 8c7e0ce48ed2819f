"""Parameters that several endpoints take, and the errors that they declare."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import Header, Path, Query

from orchestrator.api.service.requests import ErrorView
from orchestrator.errors import InvalidRequest

_ID = r"^[0-9a-hjkmnp-tv-z]{20}$"
JobId = Annotated[str, Path(pattern=_ID, description="A job's id")]
BatchId = Annotated[str, Path(pattern=_ID, description="A batch's id")]
BatchFilter = Annotated[str | None, Query(pattern=_ID, description="Only jobs of this batch")]
WaitS = Annotated[
    float, Query(ge=0, le=3600, allow_inf_nan=False, description="Wait so many seconds for the job's end")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Of your choice; a request that is sent again with the same key becomes the same job",
    ),
]
Limit = Annotated[int, Query(ge=1, le=200, description="Most entries of a page")]
Cursor = Annotated[
    str | None,
    Query(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="`next_cursor` of the page before"),
]
After = Annotated[int | None, Query(ge=-1, lt=2**53, description="Only events with an id above this one")]

WORDS = {
    400: "The request cannot be carried out; the message names the field and the way out",
    401: "No API key, or one that is not valid",
    402: "The API key's budget does not pay for it",
    403: "Not from there",
    404: "There is no such thing, or it is not yours",
    405: "This method is not served here",
    408: "The body did not arrive in time",
    409: "It conflicts with what is there",
    413: "The body is too large",
    422: "The model cannot do what is asked",
    429: "Too many requests; Retry-After says when to ask again",
    500: "A bug",
    501: "An optional package is not installed here",
    502: "A model could not be run, or stopped in the middle of a reply",
    503: "The store fails, or the service is being stopped; try again",
}
"""What a status means here."""
ALWAYS = (400, 401, 403, 429, 500, 503)
"""Statuses of errors that any endpoint may give."""
_WITH_BODY = (408, 413)


def errors(*statuses: int, has_body: bool = False) -> dict[int | str, dict[str, Any]]:  # Any: FastAPI's type
    """What an endpoint declares: these statuses, and those that any endpoint may give."""
    found = sorted({*statuses, *ALWAYS, *(_WITH_BODY if has_body else ())})
    return {status: {"model": ErrorView, "description": WORDS[status]} for status in found}


def cursor_of(job_id: str) -> str:
    """The cursor of the page that begins after this id."""
    return base64.urlsafe_b64encode(job_id.encode()).decode().rstrip("=")


def id_of(cursor: str | None) -> str | None:
    """The inverse of `cursor_of`.

    Raises:
        InvalidRequest: It is no cursor of ours.
    """
    if cursor is None:
        return None
    try:
        job_id = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        job_id = ""
    if not (job_id.isalnum() and len(job_id) == _ID_CHARS):
        raise InvalidRequest("this is no cursor; send next_cursor of the page before", field="cursor", value=cursor)
    return job_id


_ID_CHARS = 20
