"""`HostedEngine`: an engine in a process of its own, with exactly the protocols of that engine.

It owns no model: requests go to the host over a socket (`link`), whose deaths `keeper` sees to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

from orchestrator.engine import (
    GenerateRequest,
    GenerationEvent,
    Prompt,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed, InvalidRequest
from orchestrator.workers.hosted.keeper import Keeper
from orchestrator.workers.hosted.link import Link, Stream
from orchestrator.workers.remote import RemoteEngine, unserved, with_abilities


class HostedEngine(RemoteEngine):
    """An engine in a process of its own; made by `orchestrator.workers.hosted.open_engine`.

    When its host dies, every request in flight fails with a retryable `EngineFailed`, and another host is started;
    requests that come meanwhile wait for it. It belongs to the event loop it was opened on.
    """

    def __init__(self, keeper: Keeper, link: Link) -> None:
        super().__init__(link.description, empty_prompt_tokens=link.empty_prompt_tokens)
        self._keeper = keeper
        self._live: dict[str, _Live] = {}

    @property
    def host_pid(self) -> int | None:
        """The process id of the present host; None while there is none."""
        link = self._keeper.present
        return None if link is None else link.pid

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Samples from a prompt; see `Engine.generate`.

        Raises:
            InvalidRequest: The request id is in use, or a monitor cannot be sent to another process.
            EngineFailed: As the engine does; retryable when its process has died.
            TtcError: What the engine raises.
        """
        check_capabilities(request, self._description)
        if request.request_id in self._live:
            raise InvalidRequest(
                f"request_id {request.request_id!r} is in use; give every live request its own",
                field="request_id",
                value=request.request_id,
            )
        live = self._live[request.request_id] = _Live()
        try:
            sent_at = asyncio.get_running_loop().time()
            link = await self._keeper.link(deadline_s=request.deadline_s, unless=live.is_cancelled)
            if link is None:
                for last in unserved(request, is_cancelled=live.is_cancelled.done()):
                    yield last
                return
            if request.deadline_s is not None:
                waited_s = asyncio.get_running_loop().time() - sent_at
                request = replace(request, deadline_s=max(0.0, request.deadline_s - waited_s))
            live.stream = await link.generate(request)
            if live.is_cancelled.done():
                live.stream.cancel()
            while (event := await live.stream.next()) is not None:
                yield event
        finally:
            del self._live[request.request_id]
            if live.stream is not None:
                live.stream.close()

    def cancel(self, request_id: str) -> None:
        """Ends a request within one decode step, with exact counts; unknown ids are ignored."""
        if (live := self._live.get(request_id)) is not None:
            live.cancel()

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Unpins the cached prefixes of a tree; a host that is away has none."""
        if (link := self._keeper.present) is not None:
            try:
                await link.call("release", tree_id, keep=tuple(keep))
            except EngineFailed as error:
                if not error.is_retryable:
                    raise

    async def health(self) -> EngineHealth:
        """The engine's counters, those of hosts that have died included, up to when they were last asked."""
        return await self._keeper.health()

    async def aclose(self) -> None:
        """Ends live streams with `EngineFailed`, closes the engine and ends its process; safe to call twice."""
        await self._keeper.aclose()

    async def check_integrity(self) -> None:
        """Compares the books here with those of the engine; for tests and diagnosis.

        Raises:
            AssertionError: They disagree here.
            EngineFailed: They disagree there.
        """
        if (link := self._keeper.present) is not None:
            streams = {live.stream for live in self._live.values() if live.stream is not None}
            link.check_integrity(streams)
            await link.call("check_integrity")

    # For the abilities

    async def _called(self, name: str, *arguments: object, **named: object) -> Any:  # Any: what the method returns
        link = await self._keeper.link()
        assert link is not None, "no deadline was given"
        return await link.call(name, *arguments, **named)

    def _asked(self, name: str, argument: object) -> Any:  # Any: what the method returns
        link = self._keeper.present
        if link is None:
            raise EngineFailed(
                f"the process that hosts model {self._description.name!r} is away", model=self._description.name
            )
        return link.vocabulary.ask(name, argument)


class _Live:
    """A request that is being served, or waits for a host."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.is_cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def cancel(self) -> None:
        if not self.is_cancelled.done():
            self.is_cancelled.set_result(None)
        if self.stream is not None:
            self.stream.cancel()


def hosted_class(abilities: frozenset[str]) -> type[HostedEngine]:
    """The class with exactly these protocols beside `Engine`."""
    made: type[HostedEngine] = with_abilities(HostedEngine, abilities)
    return made
