"""Responses that end when their reader leaves: server-sent events, and work that is dropped if nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

_T = TypeVar("_T")

RETRY_MS = 1000
"""Browsers connect again so long after a stream broke."""


class Left(Exception):  # not an error: there is nobody to answer
    """The client has gone."""


async def while_connected(request: Request, work: Awaitable[_T]) -> _T:
    """What ``work`` gives, unless the client leaves before; then ``work`` is cancelled.

    The request's body must have been read.

    Raises:
        Left: The client has gone; a response would reach nobody.
    """
    outcome: list[_T] = []
    failure: list[Exception] = []

    async def do_work(watching: asyncio.Task[None]) -> None:
        try:
            outcome.append(await work)
        except Exception as error:  # noqa: BLE001  # raised below; a group would wrap it
            failure.append(error)
        watching.cancel()

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_until_left(request.receive))
        working = tasks.create_task(do_work(watching))
        watching.add_done_callback(lambda _: working.cancel())
    if failure:
        raise failure[0]
    if not outcome:
        raise Left
    return outcome[0]


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events; when the reader leaves, the iteration is closed at once.

    Args:
        blocks: Blocks of text, each ending with an empty line (see `sse_block`); closed in the end.
        status_code: The response's.
        headers: Further headers.
    """

    media_type = "text/event-stream"

    def __init__(
        self, blocks: AsyncIterator[str], *, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        own = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(status_code=status_code, headers={**own, **(headers or {})})
        del self.headers["content-length"]
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI
        """Sends blocks until there are no more, or nobody reads them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_until_left(receive))
            sending = tasks.create_task(self._send(send))
            sending.add_done_callback(lambda _: watching.cancel())
            watching.add_done_callback(lambda _: sending.cancel())

    async def _send(self, send: Send) -> None:
        async with aclosing(self._blocks) as blocks:  # type: ignore[type-var]  # they come from a generator
            async for block in blocks:
                await send({"type": "http.response.body", "body": block.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse_block(data: Any, *, event: str | None = None, seq: int | None = None) -> str:  # Any: a JSON value
    """One event; its ``id`` is the position in the journal, which a reader who comes back sends as Last-Event-ID."""
    lines = [f"id: {seq}"] if seq is not None else []
    if event is not None:
        lines.append(f"event: {event}")
    return "\n".join([*lines, f"data: {json.dumps(data, separators=(',', ':'))}", "", ""])


def sse_comment(text: str) -> str:
    """A block that readers ignore."""
    return f": {text}\n\n"
