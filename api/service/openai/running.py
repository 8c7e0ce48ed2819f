"""Runs a job for a client that waits for it: to its end, or up to where its stream begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import Response

from orchestrator.api.service.openai.planning import Plan
from orchestrator.api.service.openai.replies import Choice, choices_of, valid_choices
from orchestrator.api.service.openai.sse import with_heartbeats
from orchestrator.api.service.openai.watching import Watch
from orchestrator.api.service.streams import Left, while_connected
from orchestrator.errors import ServiceStopping
from orchestrator.events import Event
from orchestrator.isolation import KillablePool
from orchestrator.job import Result

_CLIENT_LEFT = 499
"""As web servers log it; nobody reads it."""


async def unless_left(request: Request, work: Awaitable[Response]) -> Response:
    """The response, unless the client hangs up before; then the work is cancelled."""
    try:
        return await while_connected(request, work)
    except Left:
        return Response(status_code=_CLIENT_LEFT)


def kinds_for_whole(plan: Plan) -> frozenset[str]:
    """The kinds of events that a whole reply is made of: text comes with the result, log probabilities do not."""
    return frozenset({"started", "result"} | ({"delta", "answer_delta"} if plan.form.num_logprobs else set()))


async def ended(events: AsyncIterator[Event], plan: Plan) -> Watch:
    """What is known of a job at its end.

    Raises:
        TtcError: It could not be run.
    """
    watch = Watch(plan)
    async with aclosing(events) as following:  # type: ignore[type-var]  # they come from a generator
        async for event in following:
            watch.take(event)
    return watch


async def shown_choices(result: Result, plan: Plan, pool: KillablePool) -> list[Choice]:
    """The choices that a client gets.

    Raises:
        TtcError: Why there is none.
    """
    found = choices_of(result, plan.form, n=plan.wish.n, is_single=plan.is_single)
    return await valid_choices(found, plan.form, pool)


async def begun(events: AsyncIterator[Event], *, heartbeat_s: float) -> AsyncIterator[Event | None]:
    """A job's events, once the first one is there: until then it may still be refused with a status of its own.

    Raises:
        TtcError: It was.
    """
    try:
        first = await anext(events)
    except StopAsyncIteration:
        raise ServiceStopping("the service is being stopped; try again") from None

    async def rest() -> AsyncIterator[Event | None]:
        yield first
        async with aclosing(with_heartbeats(events, every_s=heartbeat_s)) as following:
            async for event in following:
                yield event

    return rest()
