"""Reads streamed replies: events as many at once as have come, and no more often than a process can afford."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.workers.openai.failures import of_exception
from orchestrator.workers.openai.sse import EventReader

if TYPE_CHECKING:
    import aiohttp

_DONE = b"[DONE]"
_END_S = 0.05
"""The end of a reply follows its last event at once; a server that is late loses the connection."""
_READS_PER_S = 2000.0
"""Of all samples together. A read costs the same however little it brings of a sample, some 25 µs where this was
chosen, so that all of them take a small part of a core."""
_LONGEST_PAUSE_S = 0.1
_LONGEST_PART = 1 / 20
_SHORTEST_PAUSE_S = 0.002


class Pace:
    """How often the streams of one server are read.

    Where few samples are generated, each token is read as it comes. Where there are many, streams rest between reads,
    and what comes meanwhile waits in the kernel, to be read at once. That makes a reply late by at most a tenth of a
    second, and by at most a twentieth of the time that it takes.
    """

    def __init__(self) -> None:
        self._num_live = 0

    @contextlib.contextmanager
    def streaming(self, num_samples: int) -> Iterator[None]:
        """While so many more samples are streamed."""
        self._num_live += num_samples
        try:
            yield
        finally:
            self._num_live -= num_samples

    def pause_s(self, elapsed_s: float) -> float:
        """Rest until the next read of a stream that began so long ago; 0 for none."""
        pause_s = min(self._num_live / _READS_PER_S, _LONGEST_PAUSE_S, elapsed_s * _LONGEST_PART)
        return pause_s if pause_s >= _SHORTEST_PAUSE_S else 0.0


async def events_in(
    reply: aiohttp.ClientResponse, pace: Pace | None, *, began_at: float
) -> AsyncGenerator[list[bytes], None]:
    """The events of a reply up to ``[DONE]``, which is read to its end if that follows.

    Args:
        reply: A stream.
        pace: How often it is read; None for as soon as something has come.
        began_at: When it was asked for, on the event loop's clock.

    Raises:
        UpstreamFailed: The connection broke.
        MalformedStream: The bytes are no events.
    """
    import aiohttp

    loop, reader = asyncio.get_running_loop(), EventReader()
    try:
        while part := await reply.content.readany():
            if events := reader.feed(part):
                place = _place_of_done(events) if _DONE in part else None
                if place != 0:
                    yield events[:place]
                if place is not None:
                    await _read_end(reply.content)
                    return
            if pace is not None and (pause_s := pace.pause_s(loop.time() - began_at)):
                await _rest(reply, pause_s)
        if (events := reader.finish()) and _place_of_done(events) is None:
            yield events
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise of_exception(error) from error


def _place_of_done(events: Sequence[bytes]) -> int | None:
    return next((place for place, event in enumerate(events) if event.strip() == _DONE), None)


async def _read_end(content: aiohttp.StreamReader) -> None:
    """Reads what follows the last event, which should be nothing, so that the connection can be used again."""
    import aiohttp

    if content.at_eof():
        return
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with asyncio.timeout(_END_S):
            while not content.at_eof():
                await content.readany()


async def _rest(reply: aiohttp.ClientResponse, pause_s: float) -> None:
    """Leaves what comes to the kernel for a while."""
    connection = reply.connection
    transport = connection.transport if connection is not None else None
    if transport is None or transport.is_closing() or reply.content.is_eof():
        return  # nothing more will come
    transport.pause_reading()
    try:
        await asyncio.sleep(pause_s)
    finally:
        if not transport.is_closing():
            transport.resume_reading()
