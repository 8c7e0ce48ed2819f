"""``/v1/responses``: replies that are kept; in the background they are jobs, so that OpenAI's SDK is a job client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from orchestrator.api.service.callers import Caller
from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.fields import IdempotencyKey, errors
from orchestrator.api.service.openai.keeping import Keeping, labels_of
from orchestrator.api.service.openai.planning import Plan, planned_by
from orchestrator.api.service.openai.response_reply import response
from orchestrator.api.service.openai.response_request import ResponseRequest
from orchestrator.api.service.openai.response_stream import ResponseStream, shaped_logprobs
from orchestrator.api.service.openai.running import begun, ended, kinds_for_whole, unless_left
from orchestrator.api.service.openai.views import STREAM, ResponseView
from orchestrator.api.service.openai.wish import Wish
from orchestrator.api.service.requests import MessageBody
from orchestrator.api.service.streams import EventStream
from orchestrator.api.service.strict_json import StrictRoute
from orchestrator.events import Event
from orchestrator.sampling import derived_seed

router = APIRouter(prefix="/v1/responses", tags=["openai"], route_class=StrictRoute)

ResponseId = Annotated[str, Path(max_length=200, description="A response's id")]
_CANCEL_WAIT_S = 5.0


@router.post(
    "",
    response_model=None,
    responses={200: {"model": ResponseView, "content": STREAM}, **errors(402, 404, 409, 422, 501, 502, has_body=True)},
)
async def create_response(
    *,
    request: Request,
    who: Caller,
    service: ServiceOf,
    body: ResponseRequest,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A reply; in the background it is a job, which goes on when its client hangs up."""
    keeping = Keeping(service, who)
    before = await keeping.conversation(body.previous_response_id)
    planned = await planned_by(service, lambda: _wish(body, before, idempotency_key))
    if body.background:
        record = await service.submit(who, planned.job, form=planned.form, idempotency_key=idempotency_key)
        return JSONResponse(response(await keeping.of_record(record)))
    kinds = None if body.stream else kinds_for_whole(planned)
    events = service.run_now(who, planned.job, form=planned.form, kinds=kinds)
    if body.stream:
        return await unless_left(request, _streamed(keeping, events, planned, service.settings.heartbeat_s))
    return await unless_left(request, _whole(keeping, events, planned))


@router.get("/{response_id}", response_model=None, responses={200: {"model": ResponseView}, **errors(404)})
async def get_response(who: Caller, service: ServiceOf, response_id: ResponseId) -> Response:
    """A response as far as it is."""
    return JSONResponse(response(await Keeping(service, who).stored(response_id)))


@router.post("/{response_id}/cancel", response_model=None, responses={200: {"model": ResponseView}, **errors(404)})
async def cancel_response(who: Caller, service: ServiceOf, response_id: ResponseId) -> Response:
    """Ends a response; one that is there already stays as it is."""
    keeping = Keeping(service, who)
    record = await service.cancel(who, keeping.job_id(response_id))
    if not record.state.is_terminal:
        record = await service.wait(who, record.id, timeout_s=_CANCEL_WAIT_S)
    return JSONResponse(response(await keeping.of_record(record)))


def _wish(body: ResponseRequest, before: tuple[MessageBody, ...], idempotency_key: str | None) -> Wish:
    wish = replace(body.wish(before), labels=labels_of(body))
    if wish.seed is None and idempotency_key is not None:  # a request that is sent again is the same job
        return replace(wish, seed=derived_seed(0, idempotency_key))
    return wish


async def _whole(keeping: Keeping, events: AsyncIterator[Event], planned: Plan) -> Response:
    watch = await ended(events, planned)
    known = await keeping.live(watch, planned)
    if known.error is not None:
        raise known.error
    return JSONResponse(response(known, logprobs=shaped_logprobs(watch, planned)))


async def _streamed(keeping: Keeping, events: AsyncIterator[Event], planned: Plan, heartbeat_s: float) -> Response:
    stream = ResponseStream(planned, lambda watch: keeping.live(watch, planned))
    return EventStream(stream.blocks(await begun(events, heartbeat_s=heartbeat_s)))
