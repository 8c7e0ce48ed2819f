"""A plan: the cheapest GPUs for a load under objectives, what it costs beside plans with one type, what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvalidRequest, NoPlan
from orchestrator.fleet_file import MAX_REPLICAS
from orchestrator.planning.alternatives import Alternative, single, unrouted
from orchestrator.planning.capacity import Capacity, capacity
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.demand import FanOut
from orchestrator.planning.mix import NODE_LIMIT, Infeasible, Kind, Mix, MixProblem, RoleLoad, solve_mix
from orchestrator.planning.profiles import Profiles, with_measurements
from orchestrator.planning.reasons import over_context, why_capped, why_unserved
from orchestrator.planning.shapes import ModelShape
from orchestrator.planning.speculation import Draft, draft_table
from orchestrator.planning.throughput import Assumptions, Deployment, StepTimes
from orchestrator.planning.workload import Objectives, Workload

Numbers = NDArray[np.float64]

SIZES = (1, 2, 4, 8, 16, 32)
"""GPUs that one replica may span: powers of two, so that replicas pack onto nodes without gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """Speculative decoding.

    Attributes:
        shape: The draft model; None for n-grams of the text so far, which cost no step of a model.
        acceptance: Share of drafted tokens that are accepted, one by one.
        roles: Whose models draft.
    """

    shape: ModelShape | None = None
    acceptance: float = 0.7
    roles: tuple[str, ...] = ("small", "large")


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanRequest:
    """What is asked of a plan.

    Attributes:
        queries: What comes in, in buckets.
        shapes: Models by role; all roles that the fan-out needs.
        catalogue: GPUs that may be used.
        objectives: Of each request to a model.
        fan_out: How a query is worked on.
        assumed: Where nothing was measured.
        profiles: What was measured.
        headroom: Share of the load that is planned for besides.
        slices: Parts that a bucket is cut into.
        caps: Most GPUs by type.
        least: Fewest replicas of each role.
        max_gpus: Most GPUs that one replica may span.
        drafting: Speculative decoding; None for none.
        node_limit: Of the solver.
    """

    queries: Workload
    shapes: Mapping[str, ModelShape]
    catalogue: Catalogue
    objectives: Objectives = field(default_factory=Objectives)
    fan_out: FanOut = field(default_factory=FanOut)
    assumed: Assumptions = field(default_factory=Assumptions)
    profiles: Profiles = field(default_factory=Profiles)
    headroom: float = 0.2
    slices: int = 8
    caps: Mapping[str, int] = field(default_factory=dict)
    least: int = 1
    max_gpus: int = 8
    drafting: Drafting | None = None
    node_limit: int = NODE_LIMIT

    def __post_init__(self) -> None:
        _check("headroom", self.headroom, 0, 100)
        _check("slices", self.slices, 1, 64)
        _check("at_least", self.least, 1, 10_000)
        _check("max_gpus", self.max_gpus, 1, SIZES[-1])
        for gpu, cap in self.caps.items():
            self.catalogue.gpu(gpu)
            _check(f"cap {gpu}", cap, 0, 1e9)
        missing = [role for role in self.fan_out.roles if role not in self.shapes]
        if missing:
            raise InvalidRequest(
                f"policy {self.fan_out.policy!r} needs a model for {' and '.join(missing)}; name one: "
                + " ".join(f"--model {role}=MODEL" for role in missing),
                field="model",
            )


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidRequest(f"{name} = {value:g} must be from {low:g} to {high:g}", field=name, value=value)


@dataclass(frozen=True, eq=False)
class RolePlan:
    """What one role gets.

    Attributes:
        role: The role.
        shape: Its model.
        workload: Its requests, in buckets.
        replicas: How many of each kind, those above 0.
        shares: Of each bucket's requests that each kind serves, by kind, shape (m,).
        capacities: Of each kind that is used.
        rooms: Tokens whose KV fits on a replica of each kind.
        loads: Share of its replicas' time that each kind is busy, without headroom.
        drafts: Draft lengths by load, for each kind; empty without drafting.
    """

    role: str
    shape: ModelShape
    workload: Workload
    replicas: Mapping[Kind, int]
    shares: Mapping[Kind, Numbers]
    capacities: Mapping[Kind, Capacity]
    rooms: Mapping[Kind, float]
    loads: Mapping[Kind, float]
    drafts: Mapping[Kind, tuple[Draft, ...]]

    def rate(self, kind: Kind) -> float:
        """Requests per second that replicas of a kind get, all together, without headroom."""
        return float((self.shares[kind] * self.workload.rates).sum())

    def concurrency(self, kind: Kind) -> int:
        """Sequences that one replica may decode at once within the objectives, for the smallest requests it gets."""
        batch = self.capacities[kind].batch[self.shares[kind] > 0]
        return max(1, int(np.ceil(batch.max(initial=1.0))))


@dataclass(frozen=True, eq=False)
class Plan:
    """The answer.

    Attributes:
        request: What was asked.
        mix: What is rented, and what runs on it.
        roles: What each role gets.
        singles: The cheapest plan with each type of GPU alone.
        unrouted: The cheapest plan if requests are not routed by their size.
        assumptions: What is not measured, one sentence each.
    """

    request: PlanRequest
    mix: Mix
    roles: tuple[RolePlan, ...]
    singles: tuple[Alternative, ...]
    unrouted: Alternative
    assumptions: tuple[str, ...]

    @property
    def usd_per_hour(self) -> float:
        """Of the GPU nodes."""
        return self.mix.usd_per_hour

    @property
    def best_single(self) -> Alternative | None:
        """The cheapest plan with one type of GPU."""
        able = [other for other in self.singles if other.usd_per_hour is not None]
        return min(able, key=lambda other: other.usd_per_hour or 0.0, default=None)

    def saving(self, other: Alternative | None) -> float | None:
        """How much cheaper than another plan, as a share of its cost; None where there is none."""
        if other is None or other.usd_per_hour is None:
            return None
        return 1.0 - self.usd_per_hour / other.usd_per_hour


def make_plan(request: PlanRequest) -> Plan:
    """The cheapest plan.

    Raises:
        NoPlan: No fleet serves the load within the objectives; says why, and what would.
        InvalidRequest: Requests are longer than a model's context.
    """
    workloads = request.fan_out.demands(request.queries.merged())
    for role, workload in workloads.items():
        over_context(role, request.shapes[role], workload)
    times = {role: _step_times(request, role) for role in workloads}
    kinds = tuple(next(iter(times.values())))
    capacities = {
        role: {kind: _capacity(request, times[role][kind], workload) for kind in kinds}
        for role, workload in workloads.items()
    }
    problem = _problem(request, kinds, workloads, capacities)
    mix = solve_mix(problem, node_limit=request.node_limit)
    if isinstance(mix, Infeasible):
        raise _no_plan(request, mix, workloads, capacities, times)
    _check_counts(mix)
    roles = tuple(
        _role_plan(request, role, workload=workloads[role], mix=mix, capacities=capacities[role], times=times[role])
        for role in workloads
    )
    return Plan(
        request=request,
        mix=mix,
        roles=roles,
        singles=tuple(single(problem, gpu, request.node_limit) for gpu in request.catalogue.gpus),
        unrouted=unrouted(problem, request.node_limit),
        assumptions=tuple(_assumptions(request, roles)),
    )


def _check_counts(mix: Mix) -> None:
    """A fleet file has an end."""
    most = max((count for counts in mix.replicas.values() for count in counts.values()), default=0)
    if most > MAX_REPLICAS:
        reason = f"{most:,} replicas of one model are more than a fleet has ({MAX_REPLICAS:,}); plan for a part of it"
        raise NoPlan(f"no fleet serves this load: {reason}", reasons=[reason])


def _step_times(request: PlanRequest, role: str) -> dict[Kind, StepTimes]:
    shape = request.shapes[role]
    drafting = request.drafting
    draft = drafting.shape if drafting is not None and role in drafting.roles else None
    return {
        Kind(gpu.name, size): StepTimes(Deployment(shape, gpu, size), request.assumed, draft)
        for gpu in request.catalogue.gpus.values()
        for size in SIZES
        if size <= min(request.max_gpus, gpu.most_per_node)
    }


def _capacity(request: PlanRequest, times: StepTimes, workload: Workload) -> Capacity:
    computed = capacity(times, workload, request.objectives)
    rows = request.profiles.of(times.deployment)
    return with_measurements(computed, rows, times, workload, request.objectives) if rows else computed


def _problem(
    request: PlanRequest,
    kinds: tuple[Kind, ...],
    workloads: Mapping[str, Workload],
    capacities: Mapping[str, Mapping[Kind, Capacity]],
) -> MixProblem:
    roles = {
        role: RoleLoad(
            workload.rates * (1.0 + request.headroom),
            np.array([capacities[role][kind].rates for kind in kinds]),
            request.least,
        )
        for role, workload in workloads.items()
    }
    offers = {gpu.name: gpu.offers for gpu in request.catalogue.gpus.values()}
    return MixProblem(kinds, roles, offers, request.caps, request.slices)


def _role_plan(
    request: PlanRequest,
    role: str,
    *,
    workload: Workload,
    mix: Mix,
    capacities: Mapping[Kind, Capacity],
    times: Mapping[Kind, StepTimes],
) -> RolePlan:
    kinds = list(capacities)
    used = mix.replicas[role]
    plan = RolePlan(
        role=role,
        shape=request.shapes[role],
        workload=workload,
        replicas=used,
        shares={kind: mix.shares[role][kinds.index(kind)] for kind in used},
        capacities={kind: capacities[kind] for kind in used},
        rooms={kind: times[kind].kv_tokens for kind in used},
        loads={
            kind: float(mix.loads[role][kinds.index(kind)]) / count / (1.0 + request.headroom)
            for kind, count in used.items()
        },
        drafts={},
    )
    return replace(plan, drafts={kind: _drafts(request, plan, kind, times[kind]) for kind in used})


def _drafts(request: PlanRequest, plan: RolePlan, kind: Kind, times: StepTimes) -> tuple[Draft, ...]:
    drafting = request.drafting
    if drafting is None or plan.role not in drafting.roles:
        return ()
    workload = plan.workload
    beside = None
    if drafting.shape is not None:
        beside = StepTimes(Deployment(drafting.shape, times.deployment.gpu, times.deployment.gpus), request.assumed)
    context = float(
        np.average(workload.input_tokens + workload.output_tokens / 2, weights=workload.rates * plan.shares[kind])
    )
    return draft_table(
        times,
        beside,
        context=context,
        acceptance=drafting.acceptance,
        most_sequences=plan.concurrency(kind),
    )


def _no_plan(
    request: PlanRequest,
    found: Infeasible,
    workloads: Mapping[str, Workload],
    capacities: Mapping[str, Mapping[Kind, Capacity]],
    times: Mapping[str, Mapping[Kind, StepTimes]],
) -> NoPlan:
    if found.is_undecided:
        reason = f"nothing was found, and nothing proven, within {request.node_limit:,} nodes; raise --node-limit"
        return NoPlan(reason, reasons=[reason])
    reasons: list[str] = []
    for role, places in found.unserved.items():
        reasons += why_unserved(
            role,
            request.shapes[role],
            workloads[role],
            places,
            capacities=capacities[role],
            times=times[role],
            objectives=request.objectives,
        )
    if not found.unserved:
        reasons += why_capped(request.caps, found)
    return NoPlan("no fleet serves this load: " + "; ".join(reasons), reasons=reasons)


def _assumptions(request: PlanRequest, roles: tuple[RolePlan, ...]) -> list[str]:
    """What of this plan nobody measured."""
    assumed, measured = request.assumed, 0
    total = 0
    for plan in roles:
        for kind, shares in plan.shares.items():
            used = shares > 0
            total += int(used.sum())
            measured += int((plan.capacities[kind].is_measured & used).sum())
    lines = [
        f"prices: {request.catalogue.source}, {request.catalogue.date}; check them before you buy",
        f"throughput: {measured} of {total} (bucket, kind) pairs are from measurements; the others are idealised, "
        f"with {assumed.compute:.0%} of peak FLOPs, {assumed.bandwidth:.0%} of peak memory bandwidth and "
        f"{assumed.step_s * 1e3:g} ms a step besides; none of these shares was measured",
        f"memory: {assumed.memory:.0%} of each GPU less {assumed.reserved_gib:g} GiB for activations; at most "
        f"{assumed.max_sequences} sequences a replica",
        "latency: the TTFT objective is held by a formula for one queue with Poisson arrivals, not by a measurement",
        f"headroom: {request.headroom:.0%} more load than given is planned for",
    ]
    fan_out = request.fan_out
    if fan_out.policy != "single":
        lines.append(
            f"fan-out: policy {fan_out.policy} is taken to make {fan_out.width:g} samples in {fan_out.steps} step(s) "
            f"of each query, with {fan_out.prefix_hits:.0%} of a step's prefix still cached"
        )
    if "large" in fan_out.roles:
        lines.append(f"escalation: {fan_out.escalation:.0%} of queries are taken to go to the large model")
    if request.drafting is not None:
        lines.append(
            f"drafting: an acceptance of {request.drafting.acceptance:.0%} is taken; the plan counts no gain from it"
        )
    if any(len(plan.replicas) > 1 for plan in roles):
        lines.append("routing: requests are taken to go where their size is cheapest; see routes in plan.json")
    return lines
