"""Streams of events that must not fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

_T = TypeVar("_T")

DONE = "data: [DONE]\n\n"


async def with_heartbeats(items: AsyncIterator[_T], *, every_s: float) -> AsyncGenerator[_T | None, None]:
    """The items, and None whenever nothing has come for ``every_s`` seconds.

    Leaving the iteration leaves that of the items at once.
    """
    queue: asyncio.Queue[_T | Exception | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async for item in items:
                queue.put_nowait(item)
        except Exception as error:  # noqa: BLE001  # raised again where the items are read
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    # No task group: whoever leaves the iteration early closes this generator at its yield, where none could end.
    task = asyncio.create_task(pump())
    try:
        while True:
            try:
                async with asyncio.timeout(every_s):
                    item = await queue.get()
            except TimeoutError:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        task.cancel()
