"""Ray Serve's request router for trees: `TreePlacing` decides, and this gives it what Serve knows and Serve its choice.

Serve makes one router for each deployment handle, in the process that makes the calls. The `Routing` among a call's
arguments says whose tree it belongs to; a call without one is spread by load. Serve's own prefix router is not used:
it keys on the text of prompts, so tenants would share entries, prompts of token ids have none, and trees that begin
with the same instructions would pile up on one replica; and it asks an actor of the cluster about every call.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from ray.serve._private.replica_result import ReplicaResult
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from orchestrator.workers.ray.placing import AffinitySettings, Choice, TreePlacing
from orchestrator.workers.ray.routing import ReplicaGone, Routing

_MAX_PROBES = 16
"""Replicas asked for their load for one decision: among so many, one that has little to do is nearly surely found."""
_PROBE_AGAIN_S = 1.0
"""A replica that did not say its load is not asked again for so long: one that hangs does not slow down all calls."""


def router_config(settings: AffinitySettings, *, stats_period_s: float = 5.0) -> RequestRouterConfig:
    """For a deployment whose replicas hold trees.

    Args:
        settings: How calls are routed.
        stats_period_s: How often each replica's counters are sent to all routers.
    """
    given: dict[str, Any] = {  # Any: arguments of several types
        "request_router_class": f"{AffinityRouter.__module__}.{AffinityRouter.__name__}",
        "request_router_kwargs": settings.model_dump(),
        "request_routing_stats_period_s": stats_period_s,
    }
    return RequestRouterConfig(**given)


class AffinityRouter(RequestRouter):
    """Sends a tree's calls to the replica that holds it; see `orchestrator.workers.ray.placing`.

    Attributes:
        queue_len_response_deadline_s: A replica says within so long how many calls it has, or is not considered for the
            time being. Serve's own default, 0.1 s, is missed by replicas that compute on all cores of their machine.
    """

    queue_len_response_deadline_s = 0.5

    def initialize_state(self, **kwargs: Any) -> None:  # Any: what Serve was given as the router's arguments
        """Called by Serve with the `AffinitySettings` as plain values."""
        self._settings = AffinitySettings(**kwargs)
        self._placing = TreePlacing(self._settings, clock=time.monotonic, rng=random.Random())  # noqa: S311
        self._probed: dict[ReplicaID, float] = {}
        self._deciding = asyncio.Lock()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica to try for a call, or two of which Serve takes the less loaded; Serve asks again, after a pause,
        while they are full.
        """
        if pending_request is None or not candidate_replicas:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        routing = routing_of(pending_request)
        if routing is not None and routing.only:
            return self._only(routing, candidate_replicas, pending_request)
        key = None if routing is None else routing.key
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if key is not None and self._settings.is_on:
            await self._learn_loads(replicas, replicas[self._placing.home(key, replicas)])
        async with self._deciding:
            await asyncio.sleep(0)  # what was decided before is sent, and counted, before this is
            choice = self._choice(key, replicas, pending_request)
        if routing is not None:
            routing.reason = choice.reason
        return [[replicas[name] for name in choice.replicas]]

    def on_request_routed(
        self,
        pending_request: PendingRequest,
        replica_id: ReplicaID,
        result: ReplicaResult,  # noqa: ARG002  # Serve's signature
    ) -> None:
        """A replica has taken a call: the caller is told which."""
        if (routing := routing_of(pending_request)) is not None:
            routing.replica = replica_id.unique_id

    def _only(
        self, routing: Routing, candidates: list[RunningReplica], pending_request: PendingRequest
    ) -> list[list[RunningReplica]]:
        if routing.is_last and (key := routing.key) is not None:
            self._placing.forget(key)
        found = [replica for replica in candidates if replica.replica_id.unique_id == routing.only]
        if found:
            return [found]
        if not pending_request.future.done():
            pending_request.future.set_exception(ReplicaGone(routing.only))
        return [candidates[:1]]  # so that Serve looks at the future, and sends nothing

    def _choice(self, key: bytes | None, replicas: dict[str, RunningReplica], pending: PendingRequest) -> Choice:
        loads = {name: self.replica_queue_len_cache.get(replica.replica_id) for name, replica in replicas.items()}
        capacity = min(replica.max_ongoing_requests for replica in replicas.values())
        waited_s = max(0.0, time.time() - pending.created_at)
        return self._placing.choose(key, loads, capacity=capacity, waited_s=waited_s)

    async def _learn_loads(self, replicas: dict[str, RunningReplica], home: RunningReplica) -> None:
        """Asks replicas whose load is not known, if it could matter: where a tree's own has more than the threshold."""
        load = self.replica_queue_len_cache.get(home.replica_id)
        if load is not None and load <= self._settings.abs_threshold and load < home.max_ongoing_requests:
            return
        now = time.monotonic()
        unknown = [
            replica
            for replica in replicas.values()
            if self.replica_queue_len_cache.get(replica.replica_id) is None
            and now - self._probed.get(replica.replica_id, -_PROBE_AGAIN_S) >= _PROBE_AGAIN_S
        ]
        if len(unknown) > _MAX_PROBES:
            unknown = random.sample(unknown, _MAX_PROBES)
        for replica in unknown:
            self._probed[replica.replica_id] = now
        if unknown:
            await self._probe_queue_lens(unknown, 0)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve tells which replicas there are."""
        super().update_replicas(replicas)
        self._probed = {name: at for name, at in self._probed.items() if name in self.curr_replicas}


def routing_of(pending_request: PendingRequest) -> Routing | None:
    """The `Routing` among a call's arguments."""
    given = (*pending_request.args, *pending_request.kwargs.values())
    return next((each for each in given if isinstance(each, Routing)), None)
