"""`EngineReplica`: what a replica of Ray Serve runs. It opens engines as they are, and serves their protocols.

Calls come in through Serve, which counts them and holds them back. What belongs to a call that is under way, or must
not wait for a turn, comes in beside Serve, as `attend`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from orchestrator.config import Settings, read_settings
from orchestrator.engine import Engine
from orchestrator.errors import EngineFailed, InvalidRequest, UnknownName
from orchestrator.fleet_file import ModelEntry
from orchestrator.fleet_file.opening import engine_settings
from orchestrator.models import open_model
from orchestrator.workers.ray.leases import AffinityCounters, TreeLeases
from orchestrator.workers.ray.placing import AffinitySettings
from orchestrator.workers.ray.routing import Routing
from orchestrator.workers.ray.seats import Seat
from orchestrator.workers.ray.served import Served
from orchestrator.workers.ray.values import Due, Order, error_packed, events_packed, result_packed, unpacked

_LOG = logging.getLogger(__name__)

QUIET_S = 10.0
"""An engine that has generated within so long is not asked to prove that it can."""
SILENT_S = 60.0
"""The streams of a caller that was not heard of for so long are ended."""
_VOCABULARY_S = 0.8
"""A call about the vocabulary blocks its caller, and this replica's messages, no longer than that."""
_YOUNG_S = 20.0
"""A stream so young may not be on its caller's list yet."""
_VOCABULARY = frozenset({"count_prompt_tokens", "tokenize", "detokenize"})

_PRESENT: list[EngineReplica] = []
"""The replica that this process is."""


class EngineReplica:
    """The engines of one replica: a model, and those that run in its place.

    Args:
        seats: What to open; the first is the deployment's own.

    Raises:
        TtcError: An engine cannot be opened, or cannot generate.
    """

    async def __init__(self, *seats: Seat) -> None:  # type: ignore[misc]  # Serve awaits it
        self._loop = asyncio.get_running_loop()
        self._served: dict[str, Served] = {}
        self._heard: dict[str, float] = {}
        for seat in seats:
            entry = ModelEntry.model_validate(seat.entry)
            async with asyncio.timeout(entry.start_timeout_s):
                engine = await opened(seat, entry)
                leases = TreeLeases(AffinitySettings(**entry.affinity).lease_s, clock=time.monotonic)
                served = self._served[seat.name] = Served(seat.name, engine, leases)
                await served.probe()
        _PRESENT[:] = [self]

    # Through Serve

    async def generate(self, routing: Routing, model: str, order: bytes, due: Due) -> AsyncIterator[bytes]:
        """A stream: each item is a chunk of events, or the error it ends with.

        Args:
            routing: Whose tree the request belongs to.
            model: Which engine.
            order: A packed `Order`.
            due: When the reply becomes worthless.
        """
        try:
            given: Order = unpacked(order)
            self._hear(given.key.partition("/")[0])
            async with aclosing(self._of(model).stream(routing, given, due)) as chunks:
                async for chunk in chunks:
                    yield events_packed(chunk)
        except Exception as error:  # noqa: BLE001  # the caller is told
            yield error_packed(error, model=model)

    async def call(self, routing: Routing, model: str, name: str, arguments: bytes) -> bytes:
        """Calls a method of an engine.

        Args:
            routing: As for `generate`.
            model: Which engine.
            name: The method, one of `orchestrator.workers.hosted.protocol.METHODS`, or ``introduce``.
            arguments: Its arguments, packed: positional ones, keyword ones.

        Returns:
            What it returned or raised, packed.
        """
        try:
            served = self._of(model)
            given, named = unpacked(arguments)
            if routing.is_last and name == "release":
                served.leases.released(routing.tree_id)
                return result_packed(await served.call(name, given, named))
            with served.leases.call(routing) as tree:
                if tree.release is not None:
                    await served.engine.release(routing.tree_id, keep=tree.release.keep)
                value = await served.call(name, given, named)
                if hasattr(value, "cached_tokens"):
                    tree.read(value.prompt_tokens, value.cached_tokens)
                return result_packed(value)
        except Exception as error:  # noqa: BLE001  # the caller is told
            return error_packed(error, model=model)

    async def check_health(self) -> None:
        """For Serve, which restarts a replica that raises, or does not answer, three times in a row.

        Raises:
            TtcError: An engine cannot generate.
        """
        for served in self._served.values():
            await served.check(quiet_s=QUIET_S)
        self._sweep()

    async def record_routing_stats(self) -> dict[str, Any]:  # Any: JSON values
        """For Serve, which asks every few seconds, and for whoever wants to know how the engines are.

        Trees that were not heard of are released by the way. What came of affinity is beside ``engines``, which holds
        each engine's `EngineHealth` with its own `AffinityCounters`.
        """
        total = AffinityCounters()
        engines: dict[str, Any] = {}
        for name, served in self._served.items():
            for tree_id in served.leases.expired():
                await served.engine.release(tree_id)
            total += served.leases.counters
            engines[name] = {**asdict(await served.health()), **served.leases.counters.to_json()}
        return {**total.to_json(), "engines": engines}

    async def __del__(self) -> None:
        """Serve awaits it when the replica is stopped."""
        for served in getattr(self, "_served", {}).values():
            await served.engine.aclose()

    # Beside Serve; these run on another thread

    def attend(self, operation: str, *arguments: Any) -> Any:  # Any: as the operation
        """Carries out what a caller says about its streams, at once and whatever else is going on.

        ==================================  =============================================================
        ``taken KEY NUM_EVENTS``            its reader has taken so many events of a stream
        ``cancel KEY``                      the engine ends it, with exact counts
        ``alive CALLER KEYS``               it reads these streams, and no others; answered by True
        ``process``                         answered by the number of the replica's process
        ``vocabulary MODEL NAME ARGUMENT``  answered by a packed result
        ==================================  =============================================================
        """
        match operation, *arguments:
            case "taken", key, num_events:
                self._soon(self._taken, key, num_events)
            case "cancel", key:
                self._soon(self._cancel, key)
            case "alive", caller, keys:
                self._soon(self._alive, caller, frozenset(keys))
                return True
            case ("process",):
                return os.getpid()
            case "vocabulary", model, name, argument:
                return self._vocabulary(model, name, argument)
        return None

    def _soon(self, method: Any, *arguments: Any) -> None:  # Any: a method of this class, its arguments
        self._loop.call_soon_threadsafe(method, *arguments)

    def _vocabulary(self, model: str, name: str, argument: object) -> bytes:
        assert name in _VOCABULARY, "callers ask nothing else"

        async def answered() -> bytes:
            try:
                return result_packed(await self._of(model).call(name, (argument,), {}))
            except Exception as error:  # noqa: BLE001  # the caller is told
                return error_packed(error, model=model)

        coming = asyncio.run_coroutine_threadsafe(answered(), self._loop)
        try:
            return coming.result(_VOCABULARY_S)
        except TimeoutError:
            coming.cancel()
            return error_packed(EngineFailed(f"model {model!r} is too busy to answer", model=model), model=model)

    # Inside, on the engine's loop

    def _of(self, model: str) -> Served:
        if model not in self._served:
            raise UnknownName(kind="model", name=model, known=self._served)
        return self._served[model]

    def _taken(self, key: str, num_events: int) -> None:
        for served in self._served.values():
            served.taken(key, num_events)

    def _cancel(self, key: str) -> None:
        for served in self._served.values():
            served.cancel(key)

    def _alive(self, caller: str, keys: frozenset[str]) -> None:
        self._hear(caller)
        for served in self._served.values():
            served.abandon(caller, unless=keys, older_s=_YOUNG_S)

    def _hear(self, caller: str) -> None:
        self._heard[caller] = self._loop.time()

    def _sweep(self) -> None:
        """Ends the streams of callers that are gone."""
        since = self._loop.time() - SILENT_S
        for caller in [caller for caller, heard_at in self._heard.items() if heard_at < since]:
            del self._heard[caller]
            for served in self._served.values():
                served.abandon(caller)


def attend(_actor: object, operation: str, *arguments: Any) -> Any:  # Any: see `EngineReplica.attend`
    """Runs in the replica's process, as an actor's ``__ray_call__``."""
    if not _PRESENT:
        raise EngineFailed("the replica has not opened its engine yet", model="")
    return _PRESENT[0].attend(operation, *arguments)


async def opened(seat: Seat, entry: ModelEntry) -> Engine:
    """The engine of a seat.

    Raises:
        TtcError: What opening it raises.
    """
    settings: Settings = read_settings()
    if not seat.opener:
        return await open_model(entry.model, settings=engine_settings(entry, settings, name=seat.name))
    module, _, function = seat.opener.partition(":")
    found = getattr(importlib.import_module(module), function)(entry.model, settings)
    engine = await found if inspect.isawaitable(found) else found
    if not isinstance(engine, Engine):
        raise InvalidRequest(f"{seat.opener} gave {engine!r:.100}, which is no engine", field="model")
    return engine
