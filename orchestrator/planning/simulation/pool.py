"""All replicas of one model: routing, admission limits, and the queue of calls that found no replica with room."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from orchestrator.planning.simulation.replica import Replica
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.routing import Routing, RoutingName, routing
from orchestrator.planning.simulation.timeline import Timeline
from orchestrator.planning.simulation.work import Call, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """A model's replicas.

    Attributes:
        replica: What each is made of.
        num_replicas: How many.
        max_ongoing: Most calls that a replica is given at a time.
        max_queued: Most calls that wait for a replica with room; further ones are refused.
        routing: Which replica a call goes to.
        affinity_absolute, affinity_relative, affinity_new: See `orchestrator.planning.simulation.routing.Affinity`.
        call_s: Delay of a call on its way to a replica (network, tokenisation, Ray).
        reply_s: Delay of each sequence's end on its way back.
        usd_per_hour: Price of one replica's hardware.
        gpus_per_replica: GPUs that one takes; may be a share.
    """

    replica: ReplicaSpec
    num_replicas: int = 1
    max_ongoing: int = 1 << 30
    max_queued: int = 1 << 30
    routing: RoutingName = "affinity"
    affinity_absolute: int = 16
    affinity_relative: float = 1.5
    affinity_new: int = 2
    call_s: float = 0.0
    reply_s: float = 0.0
    usd_per_hour: float = 0.0
    gpus_per_replica: float = 1.0


class Pool:
    """See the module.

    Args:
        name: The model's name.
        spec: Its replicas.
        timeline: Time.
        rng: For rules that draw.
        rule: Another rule than the spec's.

    Attributes:
        replicas: All of them.
        num_refused: Calls that were turned away.
    """

    def __init__(
        self,
        name: str,
        spec: PoolSpec,
        timeline: Timeline,
        rng: np.random.Generator,
        *,
        rule: Routing | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.num_refused = 0
        self.replicas = [
            Replica(spec.replica, timeline, self._on_end, index=index) for index in range(spec.num_replicas)
        ]
        self._timeline = timeline
        self._loads = np.zeros(spec.num_replicas, dtype=np.int64)
        self._num_under_way = 0
        self._room = spec.max_ongoing * spec.num_replicas
        self._queue: deque[Call] = deque()
        self._rule = rule or routing(
            spec.routing, rng, absolute=spec.affinity_absolute, relative=spec.affinity_relative, new=spec.affinity_new
        )

    def submit(self, call: Call) -> None:
        """Takes a call; what comes of its sequences is told one by one."""
        call.asked_s = self._timeline.now()
        call.num_live = len(call.sequences)
        call.num_prefix_tokens = sum(tokens for _, tokens in call.prefix)
        if self.spec.call_s > 0:
            self._timeline.at(call.asked_s + self.spec.call_s, lambda: self._arrive(call))
        else:
            self._arrive(call)

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence within a step."""
        replica = sequence.call.replica
        if replica is not None:
            replica.cancel(sequence)
        elif not sequence.has_ended:
            sequence.is_cancelled = sequence.has_ended = True
            sequence.end_s = self._timeline.now()
            self._on_end(sequence)

    def forget(self, tree: int, pieces: Iterable[int], replicas: Iterable[int]) -> None:
        """A tree is over: these replicas need not keep its pieces."""
        self._rule.forget(tree)
        pieces = tuple(pieces)
        for index in replicas:
            self.replicas[index].forget(pieces)

    @property
    def num_queued(self) -> int:
        """Calls that wait for a replica with room."""
        return len(self._queue)

    @property
    def num_under_way(self) -> int:
        """Calls that replicas have."""
        return self._num_under_way

    def _arrive(self, call: Call) -> None:
        if not call.num_live:
            return  # cancelled on its way
        is_full = self._num_under_way >= self._room
        if not self.replicas[0].can_ever_hold(call) or (is_full and len(self._queue) >= self.spec.max_queued):
            self._refuse(call)
        elif self._queue or is_full:
            self._queue.append(call)
        else:
            self._place(call)

    def _place(self, call: Call) -> None:
        loads = self._loads
        index = self._rule(call.tree, loads)
        if loads[index] >= self.spec.max_ongoing:
            index = int(loads.argmin())
        loads[index] += 1
        self._num_under_way += 1
        call.replica = self.replicas[index]
        call.replica.submit(call)

    def _refuse(self, call: Call) -> None:
        self.num_refused += 1
        call.is_refused = True
        now = self._timeline.now()
        for sequence in call.sequences:
            if not sequence.has_ended:
                sequence.has_ended = True
                sequence.end_s = now
                self._on_end(sequence)

    def _on_end(self, sequence: Sequence) -> None:
        call = sequence.call
        call.num_live -= 1
        if not call.num_live and call.replica is not None:
            self._loads[call.replica.index] -= 1
            self._num_under_way -= 1
            self._serve_queue()
        if self.spec.reply_s > 0:
            self._timeline.at(self._timeline.now() + self.spec.reply_s, lambda: call.on_sequence(sequence))
        else:
            call.on_sequence(sequence)

    def _serve_queue(self) -> None:
        while self._queue and self._num_under_way < self._room:
            call = self._queue.popleft()
            if call.num_live:
                self._place(call)
