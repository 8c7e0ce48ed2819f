"""One engine of a replica: its streams, its health, and whether it can still generate."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from orchestrator.engine import (
    Embeds,
    Engine,
    Finished,
    GenerateRequest,
    GenerationEvent,
    Message,
    Prefilled,
    Prompt,
    RewardsSteps,
    SampleSpec,
    Tokenizes,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import CapabilityMissing, EngineFailed
from orchestrator.workers.hosted.protocol import ABILITIES, METHODS
from orchestrator.workers.ray.leases import TreeLeases
from orchestrator.workers.ray.outflow import Outflow
from orchestrator.workers.ray.routing import Routing
from orchestrator.workers.ray.values import Due, Introduction, Order
from orchestrator.workers.remote import unserved

_LOG = logging.getLogger(__name__)

_MAX_REFUSED = 4096
_BEFORE_ALL = -(1 << 30)
_PROBE_WORDS = "1 + 1 ="


class Served:
    """One engine.

    Args:
        name: What the fleet calls it.
        engine: Who does the work.
        leases: The trees that have calls here.
    """

    def __init__(self, name: str, engine: Engine, leases: TreeLeases) -> None:
        self.name = name
        self.engine = engine
        self.leases = leases
        self._streams: dict[str, _Stream] = {}
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._active_at = asyncio.get_running_loop().time()
        self._probing = asyncio.Lock()  # invariant: while it is held, the engine's counters contain half a probe
        self._probed = EngineHealth()
        self._numbers = itertools.count()

    # Calls

    def introduce(self) -> Introduction:
        """What callers are told of it."""
        abilities = tuple(name for name, protocol in ABILITIES.items() if isinstance(self.engine, protocol))
        empty = 0
        if isinstance(self.engine, Tokenizes):
            empty = self.engine.count_prompt_tokens(Prompt((Message("user", ""),)))
        return Introduction(self.engine.describe(), abilities, empty)

    async def call(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:  # Any: as the method
        """Calls a method of the engine."""
        if name == "introduce":
            return self.introduce()
        if name == "health":
            return await self.health()
        if name not in METHODS:
            raise EngineFailed(f"an engine has no method {name!r:.40}", model=self.name, is_retryable=False)
        if name == "check_integrity":
            self.check_integrity()
        method = getattr(self.engine, name, None)
        if method is None and name == "check_integrity":
            return None
        if method is None:
            raise CapabilityMissing(model=self.name, capability=name)
        value = method(*arguments, **named)
        return await value if inspect.isawaitable(value) else value

    async def health(self) -> EngineHealth:
        """The engine's counters without our own probes."""
        async with self._probing:
            now, own = await self.engine.health(), self._probed
        return replace(
            now,
            requests=now.requests - own.requests,
            prompt_tokens=now.prompt_tokens - own.prompt_tokens,
            cached_prompt_tokens=now.cached_prompt_tokens - own.cached_prompt_tokens,
            output_tokens=now.output_tokens - own.output_tokens,
        )

    def check_integrity(self) -> None:
        """Compares the books.

        Raises:
            AssertionError: A stream is kept under another name, or one is kept that has ended.
        """
        assert all(key == stream.key and not stream.has_ended for key, stream in self._streams.items())

    # Streams

    async def stream(self, routing: Routing, order: Order, due: Due) -> AsyncGenerator[list[GenerationEvent], None]:
        """Carries out an order.

        Raises:
            TtcError: What the engine raises.
        """
        if order.key in self._refused:  # its caller has gone on without us
            yield unserved(order.request, is_cancelled=True)
            return
        request = replace(order.request, request_id=order.key, deadline_s=due.in_s)
        stream = self._streams[order.key] = _Stream(self.engine, request, interval_s=order.interval_s)
        try:
            with self.leases.call(routing) as tree:
                if tree.release is not None:
                    await self.engine.release(routing.tree_id, keep=tree.release.keep)
                async with aclosing(stream.outflow.chunks()) as chunks:
                    async for chunk in chunks:
                        self._active_at = asyncio.get_running_loop().time()
                        for event in chunk:
                            if isinstance(event, Prefilled):
                                tree.read(event.prompt_tokens, event.cached_tokens)
                        yield chunk
        finally:
            stream.has_ended = True
            del self._streams[order.key]

    def taken(self, key: str, num_events: int) -> None:
        """A reader has taken so many events of a stream."""
        if (stream := self._streams.get(key)) is not None:
            stream.outflow.taken(num_events)

    def cancel(self, key: str) -> None:
        """Ends a stream, with exact counts; or refuses it, if it has not come yet."""
        if (stream := self._streams.get(key)) is not None:
            stream.cancel()
            return
        self._refused[key] = None
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)

    def abandon(self, caller: str, *, unless: frozenset[str] = frozenset(), older_s: float = 0.0) -> None:
        """Ends the streams of a caller that has none of them, or is gone itself."""
        since = asyncio.get_running_loop().time() - older_s
        for key, stream in self._streams.items():
            if key.partition("/")[0] == caller and key not in unless and stream.began_at <= since:
                _LOG.warning("a stream that nobody reads is ended", extra={"model": self.name})
                stream.outflow.abandon(EngineFailed("nobody reads this stream", model=self.name))

    # Readiness

    async def check(self, *, quiet_s: float) -> None:
        """Has it generate a token, unless it did so within the last `quiet_s` seconds or waits for readers only.

        Raises:
            TtcError: It cannot.
        """
        is_active = asyncio.get_running_loop().time() - self._active_at < quiet_s
        if is_active or any(stream.outflow.is_waiting_for_reader for stream in self._streams.values()):
            return
        await self.probe()

    async def probe(self) -> None:
        """A real generation of one token, or whatever else the engine is for.

        Raises:
            TtcError: What the engine raises.
            EngineFailed: It ends without a token.
        """
        async with self._probing:
            try:
                await self._generate_one()
            except CapabilityMissing:
                await self._use_ability()
        self._active_at = asyncio.get_running_loop().time()

    async def _generate_one(self) -> None:
        request = GenerateRequest(
            request_id=f"probe/{next(self._numbers)}",
            prompt=Prompt((Message("user", _PROBE_WORDS),)),
            samples=(SampleSpec(seed=0, max_tokens=1),),
            cache_salt="probe",
            priority=_BEFORE_ALL,
        )
        own = replace(self._probed, requests=self._probed.requests + 1)
        last = Prefilled(0)
        try:
            async for event in self.engine.generate(request):
                if isinstance(event, Prefilled):
                    last = event
                elif isinstance(event, Finished):
                    own = replace(own, output_tokens=own.output_tokens + event.output_tokens)
        finally:
            self._probed = replace(
                own,
                prompt_tokens=own.prompt_tokens + last.prompt_tokens,
                cached_prompt_tokens=own.cached_prompt_tokens + last.cached_tokens,
            )

    async def _use_ability(self) -> None:
        """What does not generate is asked for what it is there for; its counters may contain that."""
        if isinstance(self.engine, RewardsSteps):
            await self.engine.reward_steps(Prompt((Message("user", _PROBE_WORDS),)), ("2\n\n",))
        elif isinstance(self.engine, Embeds):
            await self.engine.embed((_PROBE_WORDS,))
        elif not (await self.engine.health()).is_ready:
            raise EngineFailed("the engine says that it is not ready", model=self.name)


class _Stream:
    """One request that the engine is working on."""

    def __init__(self, engine: Engine, request: GenerateRequest, *, interval_s: float) -> None:
        self.key = request.request_id
        self.began_at = asyncio.get_running_loop().time()
        self.has_ended = False
        self._engine = engine
        self._has_begun = False
        self._is_cancelled = False
        allowed = request.max_unread_tokens
        self.outflow = Outflow(self._events(request), allowed_tokens=allowed, interval_s=interval_s)

    def cancel(self) -> None:
        """Ends the request in the engine."""
        self._is_cancelled = True
        if self._has_begun:
            self._engine.cancel(self.key)

    async def _events(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        stream = self._engine.generate(replace(request, max_unread_tokens=self.outflow.ahead_tokens))
        self._has_begun = True
        if self._is_cancelled:  # the engine knows the request once it has taken its first step
            asyncio.get_running_loop().call_soon(self._engine.cancel, self.key)
        try:
            async for event in stream:
                yield event
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
