"""``/v1/jobs/{id}/events``: a job as a stream of server-sent events, which can be taken up again at any point."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Response

from orchestrator.api.service.callers import Caller
from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.fields import After, JobId, errors
from orchestrator.api.service.following import HEARTBEAT
from orchestrator.api.service.streams import RETRY_MS, EventStream, sse_block, sse_comment
from orchestrator.errors import InvalidRequest, TtcError
from orchestrator.events import Event

_LOG = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_LastEventId = Annotated[str | None, Header(max_length=32, description="`id` of the last event that was read")]
_STREAM = {"description": "Events; each is a row of the job's journal, or text as it is generated (without id)"}


@router.get(
    "/{job_id}/events",
    response_class=Response,  # not the stream's: errors are not of its type
    responses={200: {**_STREAM, "content": {"text/event-stream": {"schema": {"type": "string"}}}}, **errors(404)},
)
async def follow_job(
    who: Caller, service: ServiceOf, job_id: JobId, after: After = None, last_event_id: _LastEventId = None
) -> EventStream:
    """The job's events from the beginning, or after the last one that was read; the last one is `final`.

    The event's name is its kind, its id the position in the journal. `delta`, `answer_delta` and `spent` have no id,
    and are only sent by the process that runs the job.
    """
    await service.record(who, job_id)
    return EventStream(_blocks(service.events(who, job_id, after=_after(after, last_event_id))))


def _after(after: int | None, last_event_id: str | None) -> int:
    if not last_event_id:
        return -1 if after is None else after
    if not re.fullmatch(r"-1|[0-9]{1,15}", last_event_id, re.ASCII):
        raise InvalidRequest(f"Last-Event-ID must be the id of an event, not {last_event_id!r}", field="Last-Event-ID")
    return int(last_event_id)


async def _blocks(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """The stream; where the store fails it ends, and its reader comes back after a while."""
    yield f"retry: {RETRY_MS}\n\n"
    try:
        async with aclosing(events) as following:  # type: ignore[type-var]  # they come from a generator
            async for event in following:
                if event.kind == HEARTBEAT:
                    yield sse_comment("still there")
                else:
                    yield sse_block(event.data, event=event.kind, seq=event.seq)
    except TtcError as error:
        _LOG.warning("a stream of events was cut off", extra={"reason": str(error)})
