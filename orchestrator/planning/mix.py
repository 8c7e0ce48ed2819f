"""The cheapest mix of GPUs: Melange's bin packing as an integer program (Griggs et al., 2024, 2404.14527, section 5).

Every bucket of requests is cut into equal slices. A slice that a replica of kind c serves takes the share ``rate /
capacity`` of its time; what is served by replicas of a kind is at most their number; replicas fit on rented nodes:

    minimise   sum_o  price_o N_o
    subject to sum_c  x_rbc = slices                                each role r, bucket b
               sum_b  load_rbc x_rbc <= B_rc                        each role r, kind c
               sum_{c: gpus_c >= s} gpus_c B_rc <= sum_o s floor(gpus_o / s) N_o     each type, size s
               sum_o  gpus_o N_o <= cap                             each type with a cap
    x, B, N whole and >= 0

Slices of a bucket are alike, so they are counted and not told apart. Sizes of replicas are powers of two, for which the
third line is exact: a replica never spans nodes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.catalogue import Offer

Numbers = NDArray[np.float64]

NODE_LIMIT = 2000
_WORTH = 1e-9
_LEAST_SHARE = 2e-5
"""A slice counts as so much of a replica at least; less would be within the solver's tolerance, and need no replica."""
_INFEASIBLE = 2  # scipy.optimize.milp: status


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to run a replica.

    Attributes:
        gpu: Type of GPU.
        gpus: How many; a power of two.
    """

    gpu: str
    gpus: int


@dataclass(frozen=True, eq=False)
class RoleLoad:
    """What one role has to serve.

    Attributes:
        rates: Requests per second by bucket, above 0, shape (m,); headroom is in them.
        capacities: Most requests per second of one replica, by kind and bucket, shape (k, m); 0 where it cannot.
        least: Fewest replicas, all kinds together.
    """

    rates: Numbers
    capacities: Numbers
    least: int = 1


@dataclass(frozen=True, eq=False)
class MixProblem:
    """What is to be packed.

    Attributes:
        kinds: Ways to run a replica.
        roles: Loads by role.
        offers: Nodes that can be rented, by type of GPU.
        caps: Most GPUs, by type; types that are not named have none.
        slices: Into how many slices a bucket is cut.
    """

    kinds: tuple[Kind, ...]
    roles: Mapping[str, RoleLoad]
    offers: Mapping[str, Sequence[Offer]]
    caps: Mapping[str, int] = field(default_factory=dict)
    slices: int = 8

    def only(self, gpu: str) -> MixProblem:
        """The same with one type of GPU."""
        chosen = [at for at, kind in enumerate(self.kinds) if kind.gpu == gpu]
        roles = {name: replace(load, capacities=load.capacities[chosen]) for name, load in self.roles.items()}
        return replace(self, kinds=tuple(self.kinds[at] for at in chosen), roles=roles)


@dataclass(frozen=True, eq=False)
class Mix:
    """A solution.

    Attributes:
        usd_per_hour: Of the rented nodes.
        replicas: By role and kind, those above 0.
        nodes: By type of GPU and offer's name, those above 0.
        shares: Of a bucket's requests that each kind serves, by role, shape (k, m).
        loads: Replicas' worth of work of each kind, by role, shape (k,).
        gap: How much cheaper another mix might be at most, as a share of the cost; 0 if this is proven the cheapest.
        seconds: That solving took.
    """

    usd_per_hour: float
    replicas: Mapping[str, Mapping[Kind, int]]
    nodes: Mapping[tuple[str, str], int]
    shares: Mapping[str, Numbers]
    loads: Mapping[str, Numbers]
    gap: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why there is no mix.

    Attributes:
        unserved: Buckets that no kind can serve, by role: their places.
        missing: GPUs beyond their caps that would be needed at least, by type: the least in sum.
        alone: By type with a cap: the GPUs it would need if only its cap were raised; None where that is not enough.
        is_undecided: Whether the search ended at its node limit with nothing found and nothing proven.
    """

    unserved: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    alone: Mapping[str, int | None] = field(default_factory=dict)
    is_undecided: bool = False


class _Solution(NamedTuple):
    """Values of the columns, or None; whether it is proven that there are none."""

    values: Numbers | None
    gap: float
    is_proven: bool


class _Program:
    """Columns, rows and bounds of the integer program."""

    def __init__(self, problem: MixProblem) -> None:
        self.problem = problem
        self.useful = sorted(_useful(problem))
        self.cost: list[float] = []
        self.upper: list[float] = []
        self._entries: tuple[list[int], list[int], list[float]] = ([], [], [])
        self._low: list[float] = []
        self._high: list[float] = []
        self.assigned: dict[tuple[str, int, int], int] = {}
        self.counts: dict[tuple[str, int], int] = {}
        self.rented: dict[tuple[str, int], int] = {}
        self.excess: dict[str, int] = {}

    def column(self, *, cost: float = 0.0, upper: float = math.inf) -> int:
        self.cost.append(cost)
        self.upper.append(upper)
        return len(self.cost) - 1

    def row(self, terms: Sequence[tuple[int, float]], *, low: float = -math.inf, high: float = math.inf) -> None:
        rows, columns, values = self._entries
        number = len(self._low)
        for column, value in terms:
            rows.append(number)
            columns.append(column)
            values.append(value)
        self._low.append(low)
        self._high.append(high)

    def solve(self, node_limit: int) -> _Solution:
        """Values of the columns and the gap, or that there are none."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        rows, columns, values = self._entries
        matrix = csr_array((values, (rows, columns)), shape=(len(self._low), len(self.cost)))
        found = milp(
            np.array(self.cost),
            integrality=np.ones(len(self.cost), dtype=np.int64),
            bounds=Bounds(np.zeros(len(self.cost)), np.array(self.upper)),
            constraints=LinearConstraint(matrix, np.array(self._low), np.array(self._high)),
            options={"node_limit": node_limit, "mip_rel_gap": 1e-6},
        )
        if found.x is None:
            return _Solution(None, 0.0, is_proven=found.status == _INFEASIBLE)
        return _Solution(np.round(found.x), max(0.0, float(found.mip_gap or 0.0)), is_proven=True)


def _program(problem: MixProblem, *, relaxed: Sequence[str] | None = None) -> _Program:
    """The program; with ``relaxed``, caps of these types may be exceeded and only the excess costs."""
    program = _Program(problem)
    for role, load in problem.roles.items():
        _add_role(program, role, load)
    for gpu, offers in problem.offers.items():
        if any(kind.gpu == gpu for kind in problem.kinds):
            _add_nodes(program, gpu, offers, relaxed=relaxed)
    return program


def _useful(problem: MixProblem) -> set[int]:
    """Kinds that some cheapest mix may need.

    Two replicas of half the size take the same place. A kind that serves at most twice as much of every bucket, for
    every role, as one of half the size is never needed.
    """
    places = {kind: at for at, kind in enumerate(problem.kinds)}

    def is_dominated(kind: Kind) -> bool:
        half = places.get(Kind(kind.gpu, kind.gpus // 2)) if kind.gpus % 2 == 0 else None
        whole = places[kind]
        return half is not None and all(
            bool((load.capacities[whole] <= 2 * load.capacities[half]).all()) for load in problem.roles.values()
        )

    return {at for kind, at in places.items() if not is_dominated(kind)}


def _add_role(program: _Program, role: str, load: RoleLoad) -> None:
    problem = program.problem
    for at in program.useful:
        program.counts[role, at] = program.column()
    for bucket in range(len(load.rates)):
        able = [at for at in program.useful if load.capacities[at, bucket] > 0]
        for at in able:
            program.assigned[role, bucket, at] = program.column(upper=problem.slices)
        terms = [(program.assigned[role, bucket, at], 1.0) for at in able]
        program.row(terms, low=problem.slices, high=problem.slices)
    for at in program.useful:
        terms = [(program.counts[role, at], -1.0)]
        for bucket, rate in enumerate(load.rates):
            if load.capacities[at, bucket] > 0:
                share = rate / load.capacities[at, bucket] / problem.slices
                terms.append((program.assigned[role, bucket, at], max(share, _LEAST_SHARE)))
        program.row(terms, high=0.0)
    program.row([(program.counts[role, at], 1.0) for at in program.useful], low=load.least)


def _add_nodes(program: _Program, gpu: str, offers: Sequence[Offer], *, relaxed: Sequence[str] | None) -> None:
    problem = program.problem
    for at, offer in enumerate(offers):
        cost = offer.usd_per_hour if relaxed is None else 0.0
        program.rented[gpu, at] = program.column(cost=cost)
    mine = [at for at in program.useful if problem.kinds[at].gpu == gpu]
    for size in sorted({problem.kinds[at].gpus for at in mine}):
        terms = [
            (program.counts[role, at], float(problem.kinds[at].gpus))
            for role in problem.roles
            for at in mine
            if problem.kinds[at].gpus >= size
        ]
        terms += [(program.rented[gpu, at], -float(offer.gpus // size * size)) for at, offer in enumerate(offers)]
        program.row(terms, high=0.0)
    if gpu in problem.caps:
        terms = [(program.rented[gpu, at], float(offer.gpus)) for at, offer in enumerate(offers)]
        if relaxed is not None and gpu in relaxed:
            program.excess[gpu] = program.column(cost=1.0)
            terms.append((program.excess[gpu], -1.0))
        program.row(terms, high=float(problem.caps[gpu]))


def solve_mix(problem: MixProblem, *, node_limit: int = NODE_LIMIT) -> Mix | Infeasible:
    """The cheapest mix, or why there is none.

    Args:
        problem: What is to be packed.
        node_limit: Most nodes of the search tree; when it is reached, the best mix so far, whose `gap` says how good.
    """
    start = time.perf_counter()
    unserved = {
        role: tuple(int(at) for at in np.flatnonzero(~(load.capacities > 0).any(axis=0)))
        for role, load in problem.roles.items()
    }
    if any(unserved.values()):
        return Infeasible({role: places for role, places in unserved.items() if places})
    program = _program(problem)
    found = program.solve(node_limit)
    if found.values is None:
        return _binding(problem, node_limit) if found.is_proven else Infeasible(is_undecided=True)
    return _mix(program, found.values, found.gap, time.perf_counter() - start)


def _mix(program: _Program, values: Numbers, gap: float, seconds: float) -> Mix:
    problem = program.problem
    shares, loads, replicas = {}, {}, {}
    for role, load in problem.roles.items():
        share = np.zeros_like(load.capacities)
        for (owner, bucket, at), column in program.assigned.items():
            if owner == role:
                share[at, bucket] = values[column] / problem.slices
        shares[role] = share
        with np.errstate(divide="ignore", invalid="ignore"):
            loads[role] = np.where(share > 0, share * load.rates / load.capacities, 0.0).sum(axis=1)
        replicas[role] = {
            kind: int(values[program.counts[role, at]])
            for at, kind in enumerate(problem.kinds)
            if at in program.useful and values[program.counts[role, at]] > 0
        }
    nodes = {
        (gpu, problem.offers[gpu][at].name): int(values[column])
        for (gpu, at), column in program.rented.items()
        if values[column] > 0
    }
    cost = float(np.dot(program.cost, values))
    return Mix(cost, replicas, nodes, shares, loads, 0.0 if gap < _WORTH else gap, seconds)


def _binding(problem: MixProblem, node_limit: int) -> Infeasible:
    """Which caps stand in the way: the least excess in sum, and what each type alone would need."""
    capped = [gpu for gpu in problem.offers if gpu in problem.caps]
    missing: dict[str, int] = {}
    alone: dict[str, int | None] = {}
    for relaxed in (capped, *([gpu] for gpu in capped if len(capped) > 1)):
        program = _program(problem, relaxed=relaxed)
        values = program.solve(node_limit).values
        excess = {} if values is None else {gpu: round(values[column]) for gpu, column in program.excess.items()}
        if relaxed is capped:
            missing = {gpu: amount for gpu, amount in excess.items() if amount > 0}
        else:
            (gpu,) = relaxed
            alone[gpu] = problem.caps[gpu] + excess[gpu] if gpu in excess else None
    if len(capped) == 1:
        alone = {gpu: problem.caps[gpu] + amount for gpu, amount in missing.items()}
    return Infeasible(missing=missing, alone=alone)
