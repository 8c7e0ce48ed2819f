"""The endpoints of OpenAI's API: ``/v1/chat/completions`` and ``/v1/models``; ``/v1/responses`` is in `responses`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from orchestrator.api.service.callers import Caller
from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.direct import DirectRoute
from orchestrator.api.service.fields import errors
from orchestrator.api.service.openai.chat_reply import completion
from orchestrator.api.service.openai.chat_request import ChatRequest
from orchestrator.api.service.openai.chat_stream import ChatStream
from orchestrator.api.service.openai.model_names import known_names, named
from orchestrator.api.service.openai.planning import Plan, planned_by
from orchestrator.api.service.openai.running import begun, ended, kinds_for_whole, shown_choices, unless_left
from orchestrator.api.service.openai.views import STREAM, ChatView, ModelList, ModelView
from orchestrator.api.service.service import Service
from orchestrator.api.service.streams import EventStream
from orchestrator.events import Event

router = APIRouter(prefix="/v1", tags=["openai"], route_class=DirectRoute)

_MADE_AT = 1_767_225_600
"""When our models were made, as clients insist on a date."""


@router.post(
    "/chat/completions",
    response_model=None,
    responses={
        200: {"model": ChatView, "content": STREAM},
        **errors(402, 404, 409, 422, 501, 502, has_body=True),
    },
)
async def create_chat_completion(request: Request, who: Caller, service: ServiceOf, body: ChatRequest) -> Response:
    """A reply to a conversation, found within a budget; hanging up ends the work at once."""
    planned = await planned_by(service, body.wish)
    kinds = None if body.stream else kinds_for_whole(planned)
    events = service.run_now(who, planned.job, form=planned.form, kinds=kinds)
    created = int(time.time())
    if not body.stream:
        return await unless_left(request, _whole(service, events, planned, created))
    has_usage = body.stream_options.include_usage
    chunks = ChatStream(planned, created=created, includes_usage=has_usage, pool=service.orchestrator.pool)
    return await unless_left(request, _streamed(events, chunks, service.settings.heartbeat_s))


@router.get("/models", responses=errors())
async def list_models(who: Caller, service: ServiceOf) -> ModelList:  # noqa: ARG001  # callers are let in, whoever they are
    """What can be named as `model`: the default, every policy, and the fleet's models and roles."""
    return ModelList(data=[_model(name) for name in known_names(service.orchestrator.fleet)])


@router.get("/models/{name:path}", responses=errors(404))
async def get_model(
    who: Caller,  # noqa: ARG001  # as above
    service: ServiceOf,
    name: Annotated[str, Path(max_length=200)],
) -> ModelView:
    """One of them."""
    named(name, service.orchestrator.fleet, default_policy=service.orchestrator.settings.policy)
    return _model(name)


def _model(name: str) -> ModelView:
    return ModelView(id=name, created=_MADE_AT, owned_by="ttc")


async def _whole(service: Service, events: AsyncIterator[Event], planned: Plan, created: int) -> Response:
    watch = await ended(events, planned)
    choices = await shown_choices(watch.ended, planned, service.orchestrator.pool)
    return JSONResponse(completion(watch.ended, choices, planned, watch.logprobs, created=created))


async def _streamed(events: AsyncIterator[Event], chunks: ChatStream, heartbeat_s: float) -> Response:
    return EventStream(chunks.blocks(await begun(events, heartbeat_s=heartbeat_s)))
