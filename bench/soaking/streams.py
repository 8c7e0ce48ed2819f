"""A job's events as a client sees them that connects again, to whichever process, whenever the connection breaks."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

FAILURES = (aiohttp.ClientError, TimeoutError, ConnectionError)
_PAUSE_S = 0.2


@dataclass(slots=True)
class Follower:
    """One reader of one stream.

    Attributes:
        job_id: Whose.
        rows: The events that have an id: (id, kind, data).
        num_connections: How often it was let in.
        is_over: It has read ``final``.
    """

    job_id: str
    rows: list[tuple[int, str, Any]] = field(default_factory=list)  # Any: JSON values
    num_connections: int = 0
    is_over: bool = False

    async def follow(self, session: aiohttp.ClientSession, addresses: Sequence[str], rng: random.Random) -> None:
        """Reads to the job's end, however often that takes a new connection."""
        while not self.is_over:
            headers = {"Last-Event-ID": str(self.rows[-1][0])} if self.rows else {}
            url = f"{rng.choice(addresses)}/v1/jobs/{self.job_id}/events"
            try:
                async with session.get(url, headers=headers, timeout=_TIMES) as response:
                    if response.status == 200:
                        self.num_connections += 1
                        await self._read(response)
            except FAILURES:
                pass
            if not self.is_over:
                await asyncio.sleep(_PAUSE_S)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        async for block in blocks(response):
            if "id" in block:
                self.rows.append((int(block["id"]), block["event"], json.loads(block["data"])))
                self.is_over = block["event"] == "final"
            if self.is_over:
                return


async def blocks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """The fields of each server-sent event; one that was cut off is left out."""
    block: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            block[name] = value
        else:
            yield block
            block = {}


_TIMES = aiohttp.ClientTimeout(total=None, connect=10, sock_read=20)
