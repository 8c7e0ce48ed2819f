"""`RayEngine`: a model of the cluster, with exactly the protocols of the engine that its replicas run.

It sends requests to Serve and reads what comes back. It never sends a request, or what is left of one, a second time:
when a replica dies its streams fail, and whoever reads them knows what they had taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any

from orchestrator.config import RaySettings
from orchestrator.engine import (
    GenerateRequest,
    GenerationEvent,
    Prompt,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed, InvalidRequest
from orchestrator.workers.ray.calls import backoff_s, called
from orchestrator.workers.ray.cluster import MEMBERSHIP, cluster_identity
from orchestrator.workers.ray.failures import EXCEPTIONS, engine_failed
from orchestrator.workers.ray.line import Line, Lines
from orchestrator.workers.ray.outflow import Reading
from orchestrator.workers.ray.routing import Routing
from orchestrator.workers.ray.streams import Full, Interrupted, Live, Parcels
from orchestrator.workers.ray.totals import Totals
from orchestrator.workers.ray.trees import TreeLedger
from orchestrator.workers.ray.values import Due, Introduction, Order, packed
from orchestrator.workers.ray.watching import Watch
from orchestrator.workers.remote import RemoteEngine, unserved, with_abilities

_LOG = logging.getLogger(__name__)

_PING_S = 5.0
_PATIENCE_S = 30.0
"""A replica that does not answer for so long has its streams taken away."""
_GRACE_S = 5.0
"""An engine ends a request at its deadline by itself; it is told to after so long."""
_LOOK_S = 2.0
_LOST = "the cluster is not the one that was joined; another one may be there now"
_RELEASE_S = 0.8
_INTERVAL_S = 0.02
_CHUNKS_PER_S = 500
"""More than so many chunks a second leave a process little time for anything else, since each costs most of a
millisecond (`docs/benchmarks/ray.md`); with more streams than that allows, each gets its chunks less often."""
_LONGEST_INTERVAL_S = 0.5


class RayEngine(RemoteEngine):
    """A model of the cluster; made by `open_engine`.

    Args:
        model: What the fleet calls it.
        handle: Serve's handle of its deployment.
        introduction: What a replica says of its engine.
        lines: To its replicas.
        settings: How long to wait.
        watch: Of the cluster.
        on_lost: Called when the cluster is another one, and the engine is of no more use.
    """

    def __init__(
        self,
        model: str,
        handle: Any,  # Any: Serve's DeploymentHandle
        introduction: Introduction,
        lines: Lines,
        *,
        settings: RaySettings,
        watch: Watch,
        on_lost: Callable[[], None],
    ) -> None:
        description = replace(introduction.description, name=model)
        super().__init__(description, empty_prompt_tokens=introduction.empty_prompt_tokens)
        self._model = model
        self._stream = handle.options(method_name="generate", stream=True)
        self._call = handle.options(method_name="call")
        self._lines = lines
        self._settings = settings
        self._watch = watch
        self._on_lost = on_lost
        self._is_lost = False
        self._caller = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._live: dict[str, Live] = {}
        self._trees = TreeLedger()
        self._totals = Totals()
        self._is_closed = False
        # It outlives the call that opens the engine, as the engine does; `aclose` waits for it.
        self._tending = asyncio.create_task(self._tend(), name=f"tends the replicas of {model}")

    # Generating

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Samples from a prompt; see `Engine.generate`.

        Raises:
            InvalidRequest: The request id is in use, or the request cannot be sent to another process.
            EngineFailed: As the engine does; retryable when its replica has died, or the cluster does not answer.
            TtcError: What the engine raises.
        """
        check_capabilities(request, self._description)
        self._check_open()
        if request.request_id in self._live:
            raise InvalidRequest(
                f"request_id {request.request_id!r} is in use; give every live request its own",
                field="request_id",
                value=request.request_id,
            )
        routing = self._trees.routing(request.tree_id, salt=request.cache_salt)
        live = self._live[request.request_id] = Live(f"{self._caller}/{next(self._numbers)}", routing)
        try:
            async for event in self._events(request, live):
                yield event
        finally:
            del self._live[request.request_id]

    def cancel(self, request_id: str) -> None:
        """Ends a request within one decode step, with exact counts; unknown ids are ignored."""
        if (live := self._live.get(request_id)) is not None:
            live.cancel()

    async def _events(self, request: GenerateRequest, live: Live) -> AsyncIterator[GenerationEvent]:
        order = packed(Order(live.key, replace(request, deadline_s=None), self._interval_s()), what="request")
        reading = Reading(allowed_tokens=request.max_unread_tokens)
        due = Due(request.deadline_s)
        parcels, chunk = await self._begun(live, order, due)
        if parcels is None:
            for last in unserved(request, is_cancelled=live.is_cancelled):
                yield last
            return
        try:
            self._trees.answered(live.routing)
            live.line = await self._lines.to(live.routing.replica)
            if live.is_cancelled:
                live.line.cancel(live.key)
            overdue_at = None if due.in_s is None else asyncio.get_running_loop().time() + due.in_s + _GRACE_S
            while chunk is not None:
                for event in chunk:
                    yield event
                    if (num_taken := reading.take(event)) is not None:
                        live.line.taken(live.key, num_taken)
                chunk = await self._next(parcels, live, overdue_at)
        finally:
            await parcels.aclose()

    async def _begun(self, live: Live, order: bytes, due: Due) -> tuple[Parcels | None, list[GenerationEvent] | None]:
        """A call that a replica has begun to answer, and its first chunk; no call if nobody wants it any more.

        Raises:
            EngineFailed: No replica took it in time, or the one that did has died.
            TtcError: What the engine raises.
        """
        loop = asyncio.get_running_loop()
        patience_until = loop.time() + self._settings.wait_s
        for attempt in itertools.count():
            response = self._stream.remote(live.routing, self._model, order, due)
            parcels = live.parcels = Parcels(response, model=self._model)
            is_kept = False
            try:
                chunk = await self._first(parcels, live, due, patience_until)
                is_kept = chunk is not None
                return (parcels, chunk) if is_kept else (None, None)
            except Full as error:
                pause_s = backoff_s(attempt)
                if loop.time() + pause_s > patience_until:
                    raise engine_failed(error.__cause__ or error, model=self._model) from error
            finally:
                if not is_kept:
                    await parcels.aclose()
            if due.in_s is not None and due.in_s <= pause_s:
                return None, None
            await asyncio.wait({live.news}, timeout=pause_s)
            if live.is_cancelled:
                return None, None
        raise AssertionError("counting does not end")

    async def _first(
        self, parcels: Parcels, live: Live, due: Due, patience_until: float
    ) -> list[GenerationEvent] | None:
        """The first chunk; None if it is no longer wanted before a replica has taken the call."""
        loop = asyncio.get_running_loop()
        while True:
            due_at = None if due.in_s is None else loop.time() + due.in_s
            is_taken = bool(live.routing.replica)
            until = patience_until if due_at is None else due_at + (_GRACE_S if is_taken else 0.0)
            try:
                return await parcels.next(live, until=until)
            except TimeoutError:
                if due_at is None:
                    raise self._failed(
                        f"no replica took a request within {self._settings.wait_s:g} s; see: ttc fleet status"
                    ) from None
            except Interrupted:
                pass
            if not live.routing.replica:
                return None
            (await self._lines.to(live.routing.replica)).cancel(live.key)

    async def _next(self, parcels: Parcels, live: Live, overdue_at: float | None) -> list[GenerationEvent] | None:
        try:
            return await parcels.next(live, until=overdue_at)
        except TimeoutError:
            assert live.line is not None, "the stream has begun"
            live.line.cancel(live.key)
            return await parcels.next(live, until=None)

    def _interval_s(self) -> float:
        """How often a stream gets a chunk: less often, the more streams there are."""
        return min(max(_INTERVAL_S, len(self._live) / _CHUNKS_PER_S), _LONGEST_INTERVAL_S)

    # The rest of `Engine`

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Unpins the cached prefixes of a tree: with the tree's next call what is not kept, at once if nothing is."""
        routings = self._trees.release(tree_id, keep)
        if not routings:
            return
        with contextlib.suppress(EngineFailed, TimeoutError):  # its lease ends it
            async with asyncio.timeout(_RELEASE_S), asyncio.TaskGroup() as tasks:
                for routing in routings:
                    tasks.create_task(self._released(routing))

    async def _released(self, routing: Routing) -> None:
        with contextlib.suppress(EngineFailed):
            await self._sent(routing, "release", (routing.tree_id,), {})

    async def health(self) -> EngineHealth:
        """The counters of all replicas together, those of replicas that are gone included, as far as they were seen."""
        if self._is_closed:
            return replace(self._totals.sum(), is_ready=False, detail="closed")
        try:
            async with asyncio.timeout(_PATIENCE_S):
                present = await self._lines.present()
                async with asyncio.TaskGroup() as tasks:
                    asked = [(line.replica, tasks.create_task(self._health_of(line))) for line in present]
        except (TimeoutError, *EXCEPTIONS) as error:
            reason = engine_failed(error, model=self._model)
            return replace(self._totals.sum(), is_ready=False, detail=str(reason))
        self._totals.saw({replica: task.result() for replica, task in asked})
        return self._totals.sum()

    async def _health_of(self, line: Line) -> EngineHealth | None:
        try:
            health = await line.health()
        except EXCEPTIONS:
            return None
        self._lines.trust(line.replica)
        return health

    async def replicas(self) -> dict[str, int]:
        """Process ids of the replicas that answer, by replica; for measurements and diagnosis."""
        found: dict[str, int] = {}
        for line in await self._lines.present():
            with contextlib.suppress(TimeoutError, *EXCEPTIONS):
                async with asyncio.timeout(_PATIENCE_S):
                    found[line.replica] = await line.process_id()
        return found

    async def aclose(self) -> None:
        """Ends live streams with `EngineFailed` and leaves the cluster; the replicas stay. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        for live in self._live.values():
            live.fail(self._failed("it was closed", is_retryable=False))
        self._tending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tending
        self._watch.close()
        for parcels in [live.parcels for live in self._live.values() if live.parcels is not None]:
            await parcels.aclose()  # before the cluster is left: Ray would join one again to take calls back
        await MEMBERSHIP.leave()

    async def check_integrity(self) -> None:
        """Compares the books of a replica with those of its engine; for tests and diagnosis.

        Raises:
            EngineFailed: They disagree.
        """
        await self._called("check_integrity")

    # For the abilities

    async def _called(self, name: str, *arguments: object, **named: object) -> Any:  # Any: what the method returns
        self._check_open()
        routing = self._trees.routing(str(named.get("tree_id", "")))
        value = await self._sent(routing, name, arguments, named)
        self._trees.answered(routing)
        return value

    def _asked(self, name: str, argument: object) -> Any:  # Any: what the method returns
        self._check_open()
        return self._lines.vocabulary(name, argument)

    async def _sent(
        self, routing: Routing, name: str, arguments: tuple[object, ...], named: dict[str, object]
    ) -> Any:  # Any: what the method returns
        data = packed((arguments, named), what="arguments")
        return await called(
            lambda: self._call.remote(routing, self._model, name, data),
            model=self._model,
            within_s=self._settings.wait_s,
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise self._failed("the engine is closed", is_retryable=False)
        if self._is_lost:
            raise self._failed(_LOST)

    def _failed(self, reason: str, *, is_retryable: bool = True) -> EngineFailed:
        reason = f"model {self._model!r} on the cluster: {reason}"
        return EngineFailed(reason, model=self._model, is_retryable=is_retryable)

    # Replicas

    async def _tend(self) -> None:
        """Tells replicas which streams are read, and takes streams away from those that do not answer."""
        while True:
            await asyncio.sleep(_PING_S)
            by_replica: dict[str, list[Live]] = {}
            for live in self._live.values():
                if live.routing.replica:
                    by_replica.setdefault(live.routing.replica, []).append(live)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for replica, lives in by_replica.items():
                        tasks.create_task(self._ping(replica, lives))
                if await self._watch.is_gone(within_s=_LOOK_S):
                    self._lose()
            except* Exception as errors:  # noqa: BLE001  # replicas end streams that they do not hear of, so this must go on
                _LOG.exception("replicas could not be told", exc_info=errors, extra={"model": self._model})

    def _lose(self) -> None:
        self._is_lost = True
        _LOG.error("the cluster is not the one that was joined", extra={"model": self._model})
        for live in self._live.values():
            live.fail(self._failed(_LOST))
        self._on_lost()

    async def _ping(self, replica: str, lives: list[Live]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                line = await self._lines.to(replica)
                await line.alive(self._caller, [live.key for live in lives])
            self._lines.trust(replica)
        except (EngineFailed, *EXCEPTIONS):
            self._lines.drop(replica)
            for live in lives:
                live.fail(self._failed("a replica does not answer any more"))


async def open_engine(
    model: str,
    handle: Any,  # Any: Serve's DeploymentHandle
    *,
    application: str,
    settings: RaySettings,
    on_lost: Callable[[], None] = lambda: None,
) -> RayEngine:
    """An engine for a model, whose process is in the cluster already; it leaves the cluster when it is closed.

    Args:
        model: What the fleet calls it.
        handle: Serve's handle of the deployment that runs it.
        application: The Serve application.
        settings: How long to wait.
        on_lost: See `RayEngine`.

    Raises:
        EngineFailed: No replica is ready in time.
        TtcError: What the replica says.
    """
    routing = Routing()
    call = handle.options(method_name="call")
    data = packed(((), {}), what="arguments")
    introduction: Introduction = await called(
        lambda: call.remote(routing, model, "introduce", data), model=model, within_s=settings.open_s
    )
    lines = Lines(application, model=model)
    await lines.to(routing.replica)
    kind: type[RayEngine] = with_abilities(RayEngine, frozenset(introduction.abilities))
    watch = Watch(await cluster_identity())
    return kind(model, handle, introduction, lines, settings=settings, watch=watch, on_lost=on_lost)
