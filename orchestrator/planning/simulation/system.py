"""The whole system: controllers, the pools of all models, and jobs that are played from their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from orchestrator.errors import InvalidRequest
from orchestrator.planning.simulation.controllers import Controllers, ControllerSpec
from orchestrator.planning.simulation.measuring import Measured
from orchestrator.planning.simulation.pool import Pool, PoolSpec
from orchestrator.planning.simulation.routing import Routing
from orchestrator.planning.simulation.shapes import CallShape, JobShape
from orchestrator.planning.simulation.timeline import Timeline
from orchestrator.planning.simulation.work import Call, Prefix, Sequence

_PIECES_PER_JOB = 1 << 24
"""Identities of a job's pieces: up from its number times this for sequences, down from there for prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSpec:
    """What is simulated.

    Attributes:
        pools: Models by name.
        roles: Which model plays which role; a role that is not named is the model of that name.
        controllers: Who drives jobs.
    """

    pools: Mapping[str, PoolSpec]
    roles: Mapping[str, str] = field(default_factory=dict)
    controllers: ControllerSpec = field(default_factory=ControllerSpec)

    def pool_of(self, role: str) -> str:
        """The model that plays a role.

        Raises:
            InvalidRequest: None does.
        """
        name = self.roles.get(role, role)
        if name not in self.pools:
            known = ", ".join(sorted({*self.pools, *self.roles}))
            raise InvalidRequest(
                f"jobs call a model in the role {role!r}, and the fleet has none; it has: {known}", field="roles"
            )
        return name

    @property
    def gpus(self) -> float:
        """Of all pools."""
        return sum(pool.gpus_per_replica * pool.num_replicas for pool in self.pools.values())

    @property
    def usd_per_hour(self) -> float:
        """Of all pools."""
        return sum(pool.usd_per_hour * pool.num_replicas for pool in self.pools.values())


class System:
    """See the module.

    Args:
        spec: What is simulated.
        timeline: Time.
        seed: Of everything that is drawn in here (routing).
        rule: Another rule of routing for each pool, for instance a vendor's own.
        measure_from_s: Jobs that arrive before this are left out of what is measured.

    Attributes:
        pools: By name.
        controllers: Who drives jobs.
        measured: What came of it.
    """

    def __init__(
        self,
        spec: SystemSpec,
        timeline: Timeline,
        *,
        seed: int = 0,
        rule: Callable[[str], Routing] | None = None,
        measure_from_s: float = 0.0,
    ) -> None:
        self.spec = spec
        self.timeline = timeline
        self.controllers = Controllers(spec.controllers, timeline)
        rng = np.random.default_rng([seed, 0x51])
        self.pools = {
            name: Pool(name, pool, timeline, rng, rule=rule(name) if rule is not None else None)
            for name, pool in spec.pools.items()
        }
        self.measured = Measured(measure_from_s)
        self.num_jobs = 0

    def play(self, shape: JobShape, *, on_end: Callable[[], None] | None = None) -> None:
        """A job of this shape arrives now.

        Args:
            shape: The job.
            on_end: Called when it has ended.
        """
        self.num_jobs += 1
        _Job(self, shape, self.num_jobs, on_end).arrive()

    @property
    def num_unfinished(self) -> int:
        """Jobs that have arrived and not ended."""
        return self.controllers.num_queued + self.controllers.num_running


class _Job:
    """A job on its way; see `JobShape` for what it does."""

    __slots__ = (
        "_arrived_s", "_calls", "_controller", "_ended", "_first_token_s", "_has_failed", "_num_ended", "_number",
        "_on_end", "_parents", "_paths", "_pending", "_pieces", "_replicas", "_shape", "_system",
    )  # fmt: skip

    def __init__(self, system: System, shape: JobShape, number: int, on_end: Callable[[], None] | None) -> None:
        self._system = system
        self._shape = shape
        self._number = number
        self._on_end = on_end
        self._controller = -1
        self._arrived_s = system.timeline.now()
        self._first_token_s = -1.0
        self._num_ended = 0
        self._has_failed = False
        self._pending = list(range(len(shape.calls)))
        self._calls: list[int] = []  # number of the first sequence of each call
        self._ended: set[int] = set()
        self._paths: dict[int, Prefix] = {}
        self._pieces: dict[tuple[int, int], int] = {}
        self._replicas: set[tuple[str, int]] = set()
        self._parents = {call.parent for call in shape.calls if call.parent >= 0}
        first = 0
        for call in shape.calls:
            self._calls.append(first)
            first += len(call.outputs)

    def arrive(self) -> None:
        system = self._system
        if not system.controllers.take(self._begin):
            system.measured.refused(self._arrived_s)

    def _begin(self, controller: int) -> None:
        self._controller = controller
        self._system.controllers.work(controller, self._system.controllers.spec.job_s, self._go_on)

    def _go_on(self) -> None:
        """Makes the calls whose time has come, or ends."""
        if self._num_ended == self._shape.num_sequences or (self._has_failed and self._num_ended == self._num_made()):
            self._end()
            return
        if self._has_failed:
            return
        controllers, calls = self._system.controllers, self._shape.calls
        ready = [number for number in self._pending if self._is_ready(calls[number])]
        if not ready:
            return
        self._pending = [number for number in self._pending if number not in ready]
        for number in ready:
            controllers.work(self._controller, controllers.spec.call_s, partial(self._call, number))

    def _num_made(self) -> int:
        calls = self._shape.calls
        return self._shape.num_sequences - sum(len(calls[number].outputs) for number in self._pending)

    def _is_ready(self, call: CallShape) -> bool:
        return call.after <= self._num_ended and (call.parent < 0 or call.parent in self._ended)

    def _call(self, number: int) -> None:
        shape, first = self._shape.calls[number], self._calls[number]
        base = self._number * _PIECES_PER_JOB
        prefix = self._paths.get(shape.parent, ())
        if shape.prompt_tokens:
            piece = self._pieces.setdefault((shape.parent, shape.piece), base - 1 - len(self._pieces))
            prefix = (*prefix, (piece, shape.prompt_tokens))
        pool = self._system.spec.pool_of(shape.role)
        call = Call(pool, self._number, prefix, self._on_sequence)
        for place, tokens in enumerate(shape.outputs):
            sequence = first + place
            is_parent = sequence in self._parents
            is_kept = is_parent and tokens > 0
            call.add(tokens, base + sequence if is_kept else None)
            if is_parent:
                self._paths[sequence] = (*prefix, (base + sequence, tokens)) if is_kept else prefix
        call.number = first
        self._system.pools[pool].submit(call)

    def _on_sequence(self, sequence: Sequence) -> None:
        controllers = self._system.controllers
        controllers.work(self._controller, controllers.spec.sequence_s, lambda: self._take_in(sequence))

    def _take_in(self, sequence: Sequence) -> None:
        call = sequence.call
        if not call.num_live:
            call.sequences.clear()  # they point to it: nothing is left for the collector of cycles to find
        self._num_ended += 1
        self._ended.add(call.number + sequence.index)
        if call.is_refused:
            self._has_failed = True
        elif call.replica is not None:
            self._replicas.add((call.pool, call.replica.index))
            self._system.measured.sequence(sequence, self._arrived_s)
        if self._first_token_s < 0:
            self._first_token_s = sequence.first_token_s
        self._go_on()

    def _end(self) -> None:
        system = self._system
        base = self._number * _PIECES_PER_JOB
        pieces = [*self._pieces.values(), *(base + sequence for sequence in self._parents)]
        for name, pool in system.pools.items():
            pool.forget(self._number, pieces, [index for each, index in self._replicas if each == name])
        system.controllers.leave(self._controller)
        system.measured.job(
            self._shape, self._arrived_s, self._first_token_s, system.timeline.now(), has_failed=self._has_failed
        )
        if self._on_end is not None:
            self._on_end()
