"""Where replies come from, in the JSON of the chat endpoint; here a service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from orchestrator.client import AsyncClient, Client
from orchestrator.client.address import Address

Json = dict[str, Any]  # Any: JSON values


class Source(Protocol):
    """Takes bodies of chat requests and gives what the endpoint would answer."""

    def complete(self, body: Json) -> Json:
        """A whole reply."""
        ...

    def stream(self, body: Json) -> Generator[Json]:
        """Its chunks; leaving the iteration ends the spending."""
        ...

    async def acomplete(self, body: Json) -> Json:
        """A whole reply."""
        ...

    def astream(self, body: Json) -> AsyncGenerator[Json]:
        """Its chunks; closing the iteration ends the spending."""
        ...


class ServiceSource:
    """A service. No idle connection is kept: a chat model has no end at which they could be closed.

    Args:
        base_url: Where it is; see `Client`.
        api_key: See `Client`.
        timeout_s: See `Client`.
        max_retries: See `Client`.
    """

    def __init__(
        self, base_url: str | None, *, api_key: str | None, timeout_s: float | None, max_retries: int | None
    ) -> None:
        self._options: Json = {"base_url": base_url, "api_key": api_key, "max_idle": 0}
        if timeout_s is not None:
            self._options["timeout_s"] = timeout_s
        if max_retries is not None:
            self._options["max_retries"] = max_retries
        Address.of(
            base_url, api_key
        )  # what cannot be used is refused now, and connections are made when they are needed
        self._aclients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = WeakKeyDictionary()

    @cached_property
    def client(self) -> Client:
        """For other requests to the same service."""
        return Client(**self._options)

    @property
    def aclient(self) -> AsyncClient:
        """For other requests to the same service, from the running event loop: connections belong to one."""
        loop = asyncio.get_running_loop()
        if loop not in self._aclients:
            self._aclients[loop] = AsyncClient(**self._options)
        return self._aclients[loop]

    def complete(self, body: Json) -> Json:
        """A whole reply."""
        return self.client.chat(body)

    def stream(self, body: Json) -> Generator[Json]:
        """Its chunks."""
        return self.client.chat_stream(body)

    async def acomplete(self, body: Json) -> Json:
        """A whole reply."""
        return await self.aclient.chat(body)

    def astream(self, body: Json) -> AsyncGenerator[Json]:
        """Its chunks."""
        return self.aclient.chat_stream(body)
