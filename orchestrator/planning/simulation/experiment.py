"""Runs a simulated system under a load, for several seeds, and says what came of it with its uncertainty."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from orchestrator.errors import InvalidRequest
from orchestrator.planning.simulation.arrivals import Arrivals, Mix
from orchestrator.planning.simulation.controllers import ControllerSpec
from orchestrator.planning.simulation.outcome import Outcome, PoolOutcome
from orchestrator.planning.simulation.pool import Pool
from orchestrator.planning.simulation.replica_parts import ReplicaCounts
from orchestrator.planning.simulation.routing import Routing
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap

_EVENTS_AT_ONCE = 20_000
_DEEP = 3.0

Tell = Callable[[float], None]
"""Is told how much of a run is done, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which part of a run counts.

    Attributes:
        duration_s: Jobs arrive for so long.
        warmup_s: The first so many seconds do not count.
        drain_s: So long is waited for the last jobs; those that have not ended then count as lasting that long.
    """

    duration_s: float = 120.0
    warmup_s: float = 20.0
    drain_s: float = math.inf


def simulate(
    spec: SystemSpec,
    arrivals: Arrivals,
    window: Window,
    *,
    seed: int = 0,
    rule: Callable[[str], Routing] | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """One run.

    Args:
        spec: The system.
        arrivals: The load.
        window: What counts.
        seed: Of everything that is drawn.
        rule: Another rule of routing for each pool.
        tell: Is told how far the run is.
    """
    started = time.perf_counter()
    window = replace(window, duration_s=min(window.duration_s, arrivals.ends_s))
    if not window.warmup_s < window.duration_s:
        raise InvalidRequest(
            f"arrivals end after {window.duration_s:g} s, within the warm-up of {window.warmup_s:g} s",
            field="warmup",
            value=window.warmup_s,
        )
    heap = EventHeap()
    system = System(spec, heap, seed=seed, rule=rule, measure_from_s=window.warmup_s)
    load = _Load(system, heap, arrivals, window, np.random.default_rng([seed, 0xA7]))
    heap.at(window.warmup_s, load.begin_counting)
    load.schedule_next()
    _run(heap, window.duration_s, tell)
    load.end_counting()
    _run(heap, window.duration_s + window.drain_s, None)
    return load.outcome(wall_s=time.perf_counter() - started)


def _run(heap: EventHeap, until_s: float, tell: Tell | None) -> None:
    with _without_collection():
        while heap.run(until_s, most_events=_EVENTS_AT_ONCE):
            if tell is not None:
                tell(min(1.0, heap.now() / until_s))


@contextmanager
def _without_collection() -> Iterator[None]:
    """Jobs leave no cycles behind, and looking for some among millions of objects takes longer than all the rest."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Snapshot(NamedTuple):
    """Counters at some moment."""

    time_s: float
    counts: dict[str, list[ReplicaCounts]]
    num_ended: int
    output_tokens: int
    unfinished: int
    controllers_busy_s: float


class _Load:
    """Feeds jobs to a system and notes what it counts when counting begins and ends."""

    def __init__(
        self, system: System, heap: EventHeap, arrivals: Arrivals, window: Window, rng: np.random.Generator
    ) -> None:
        self._system = system
        self._heap = heap
        self._jobs = arrivals.jobs(rng)
        self._window = window
        self._num_counted = 0
        self._num_counted_ended = 0
        self._arrived_at: dict[int, float] = {}
        self._num_arrived = 0
        self._before: _Snapshot | None = None
        self._after: _Snapshot | None = None

    def schedule_next(self) -> None:
        job = next(self._jobs, None)
        if job is None or job.time_s > self._window.duration_s:
            return

        def arrive() -> None:
            number = self._num_arrived
            self._num_arrived += 1
            if job.time_s >= self._window.warmup_s:
                self._num_counted += 1
                self._arrived_at[number] = job.time_s
            self._system.play(job.shape, on_end=lambda: self._ended(number))
            self.schedule_next()

        self._heap.at(job.time_s, arrive)

    def _ended(self, number: int) -> None:
        self._arrived_at.pop(number, None)

    def begin_counting(self) -> None:
        self._before = self._snapshot()

    def end_counting(self) -> None:
        self._after = self._snapshot()

    def _snapshot(self) -> _Snapshot:
        system = self._system
        counts = {name: [_copied(replica.counts) for replica in pool.replicas] for name, pool in system.pools.items()}
        measured = system.measured
        return _Snapshot(
            self._heap.now(),
            counts,
            len(measured.ends_s),
            measured.output_tokens,
            system.num_unfinished,
            system.controllers.busy_s,
        )

    def outcome(self, *, wall_s: float) -> Outcome:
        before, after, measured = self._before, self._after, self._system.measured
        assert before is not None
        assert after is not None
        seconds = after.time_s - before.time_s
        counted = max(1, self._num_counted)
        for arrived_s in self._arrived_at.values():
            measured.job_s.add(self._heap.now() - arrived_s)  # not ended: at least that long
        throughput = (after.num_ended - before.num_ended) / seconds
        job = measured.job_s.percentiles(0.5, 0.95, 0.99)
        ttft = measured.ttft_s.percentiles(0.5, 0.95)
        hourly = self._system.spec.usd_per_hour
        controllers = self._system.spec.controllers.num_controllers
        return Outcome(
            offered=self._num_counted / seconds,
            throughput=throughput,
            tokens_per_s=(after.output_tokens - before.output_tokens) / seconds,
            job_p50_s=job[0],
            job_p95_s=job[1],
            job_p99_s=job[2],
            job_mean_s=measured.job_s.mean,
            first_p95_s=measured.first_token_s.percentiles(0.95)[0],
            ttft_p50_s=ttft[0],
            ttft_p95_s=ttft[1],
            tpot_mean_s=measured.tpot_s.mean,
            tpot_p95_s=measured.tpot_s.percentiles(0.95)[0],
            usd_per_1000_jobs=hourly / 3.6 / throughput if throughput else math.nan,
            backlog=(after.unfinished - before.unfinished) / counted,
            failed=measured.num_failed / max(1, self._num_arrived),
            refused=measured.num_refused / max(1, self._num_arrived),
            unfinished=len(self._arrived_at) / counted,
            controllers_busy=(after.controllers_busy_s - before.controllers_busy_s) / seconds / controllers,
            pools={
                name: _pool_outcome(pool, before.counts[name], after.counts[name], seconds)
                for name, pool in self._system.pools.items()
            },
            num_jobs=measured.num_jobs,
            events=self._heap.num_events,
            wall_s=wall_s,
        )


def _copied(counts: ReplicaCounts) -> ReplicaCounts:
    return ReplicaCounts(**asdict(counts))


def _pool_outcome(
    pool: Pool, before: Sequence[ReplicaCounts], after: Sequence[ReplicaCounts], seconds: float
) -> PoolOutcome:
    def grown(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        values = [getattr(late, name) - getattr(early, name) for early, late in zip(before, after, strict=True)]
        return np.array(values, dtype=np.float64)

    busy, read, cached = grown("busy_s"), grown("read_tokens").sum(), grown("cached_tokens").sum()
    total = float(busy.sum())
    waiting = pool.num_queued + sum(replica.num_waiting for replica in pool.replicas)
    return PoolOutcome(
        busy=total / seconds / len(busy),
        batch=float(grown("sequence_s").sum()) / total if total else 0.0,
        kv=float(grown("kv_token_s").sum()) / total / pool.spec.replica.kv_tokens if total else 0.0,
        hits=float(cached / (cached + read)) if cached + read else 0.0,
        written_per_s=float(grown("written_tokens").sum()) / seconds,
        read_per_s=float(read) / seconds,
        recomputed=float(grown("recomputed_tokens").sum() / read) if read else 0.0,
        preemptions=float(grown("preemptions").sum()),
        imbalance=float(busy.max() / busy.mean()) if total else 1.0,
        refused=float(pool.num_refused),
        queued=waiting / len(busy),
    )


def closed_loop(spec: SystemSpec, mix: Mix, *, concurrency: int, num_jobs: int, seed: int = 0) -> float:
    """Jobs per second that the system ends when there are always ``concurrency`` of them: its saturation rate.

    The first third of the ends is warm-up.
    """
    heap = EventHeap()
    system = System(spec, heap, seed=seed)
    rng = np.random.default_rng([seed, 0xC1])
    left = num_jobs

    def begin() -> None:
        nonlocal left
        if left > 0:
            left -= 1
            system.play(mix.draw(rng), on_end=begin)

    for _ in range(min(concurrency, num_jobs)):
        begin()
    ends = system.measured.ends_s
    wanted = max(3, num_jobs - concurrency)
    with _without_collection():
        while len(ends) < wanted and heap.run(most_events=_EVENTS_AT_ONCE):
            pass
    ends = sorted(ends[:wanted])
    first = len(ends) // 3
    seconds = ends[-1] - ends[first] if len(ends) > first + 1 else 0.0
    return (len(ends) - first - 1) / seconds if seconds > 0 else math.nan


def lone_time(spec: SystemSpec, mix: Mix, *, num_jobs: int = 20, seed: int = 0) -> float:
    """Seconds that a job takes that has the system to itself, on average; NaN if none ends well."""
    rng = np.random.default_rng([seed, 0x10])
    seconds = []
    for _ in range(num_jobs):
        heap = EventHeap()
        system = System(spec, heap, seed=seed)
        system.play(mix.draw(rng))
        heap.run()
        seconds += list(system.measured.job_s.values)
    return float(np.mean(seconds)) if seconds else math.nan


def saturation_rate(spec: SystemSpec, mix: Mix, *, seed: int = 0) -> float:
    """The rate above which queues grow without bound: jobs per second with three batches of work at hand.

    A fleet that is so many times a smaller one is taken for so many of those.
    """
    times = math.gcd(*(pool.num_replicas for pool in spec.pools.values()))
    if spec.controllers.is_free:
        spec = replace(spec, controllers=ControllerSpec())
    else:
        times = math.gcd(times, spec.controllers.num_controllers)
    if times > 1:
        pools = {name: replace(pool, num_replicas=pool.num_replicas // times) for name, pool in spec.pools.items()}
        number = spec.controllers.num_controllers
        controllers = spec.controllers if number == 1 else replace(spec.controllers, num_controllers=number // times)
        return times * saturation_rate(replace(spec, pools=pools, controllers=controllers), mix, seed=seed)
    slots = sum(pool.num_replicas * pool.replica.max_sequences for pool in spec.pools.values())
    per_job = max(1.0, mix.num_sequences / max(1, _num_levels(mix)))
    concurrency = max(4, math.ceil(_DEEP * slots / per_job))
    limit = spec.controllers.max_jobs * spec.controllers.num_controllers
    concurrency = min(concurrency, limit)
    return closed_loop(spec, mix, concurrency=concurrency, num_jobs=concurrency * 5, seed=seed)


def _num_levels(mix: Mix) -> int:
    """How many rounds of calls a job makes one after the other, about."""
    rounds = [len({call.after for call in shape.calls}) for _, shapes in mix.kinds for shape in shapes]
    return max(1, round(float(np.mean(rounds))))
