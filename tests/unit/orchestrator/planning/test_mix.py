"""The mix is the cheapest: equal to brute force where that can be had, and explained where there is none."""

from collections.abc import Iterator
from itertools import product
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.catalogue import Offer
from orchestrator.planning.mix import Infeasible, Kind, Mix, MixProblem, RoleLoad, solve_mix


def splits(slices: int, places: list[int]) -> Iterator[dict[int, int]]:
    """All ways to put ``slices`` slices into ``places``."""
    for counts in product(range(slices + 1), repeat=len(places)):
        if sum(counts) == slices:
            yield dict(zip(places, counts, strict=True))


def packs(replicas: list[int], nodes: list[int]) -> bool:
    """Whether replicas fit on nodes; largest first into the fullest that has room is exact for powers of two."""
    room = sorted(nodes)
    for size in sorted(replicas, reverse=True):
        place = next((at for at, free in enumerate(room) if free >= size), None)
        if place is None:
            return False
        room[place] -= size
        room.sort()
    return True


def cheapest_nodes(replicas: list[int], offers: list[Offer], cap: int | None) -> float:
    """Dollars of the cheapest nodes on which replicas fit, or infinity."""
    most = [ceil(sum(replicas) / offer.gpus) + 1 if replicas else 0 for offer in offers]
    best = float("inf")
    for counts in product(*(range(count + 1) for count in most)):
        nodes = [offer.gpus for offer, count in zip(offers, counts, strict=True) for _ in range(count)]
        if cap is not None and sum(nodes) > cap:
            continue
        cost = sum(offer.usd_per_hour * count for offer, count in zip(offers, counts, strict=True))
        if cost < best and packs(replicas, nodes):
            best = cost
    return best


def brute_force(problem: MixProblem, *, spare: float) -> float:
    """The least cost by trying every assignment of slices; a replica may be overloaded by ``spare``."""
    (load,) = problem.roles.values()
    kinds = range(len(problem.kinds))
    able = [[at for at in kinds if load.capacities[at, bucket] > 0] for bucket in range(len(load.rates))]
    best = float("inf")
    for choice in product(*(list(splits(problem.slices, places)) for places in able)):
        work = np.zeros(len(problem.kinds))
        for bucket, counts in enumerate(choice):
            for at, count in counts.items():
                work[at] += count * load.rates[bucket] / load.capacities[at, bucket] / problem.slices
        fewest = [max(0, ceil(each - spare)) for each in work]
        for extra in product(*(range(load.least + 1) for _ in kinds)):
            counts = [few + more for few, more in zip(fewest, extra, strict=True)]
            if sum(counts) < load.least or (sum(counts) > load.least and any(extra)):
                continue
            best = min(best, _cost(problem, counts, best))
    return best


def _cost(problem: MixProblem, counts: list[int], best: float) -> float:
    total = 0.0
    for gpu, offers in problem.offers.items():
        replicas = [
            kind.gpus
            for kind, count in zip(problem.kinds, counts, strict=True)
            if kind.gpu == gpu
            for _ in range(count)
        ]
        total += cheapest_nodes(replicas, list(offers), problem.caps.get(gpu))
        if total >= best:
            break
    return total


@st.composite
def problems(draw: st.DrawFn) -> MixProblem:
    gpus = ["A", "B"][: draw(st.integers(1, 2))]
    kinds = tuple(Kind(gpu, size) for gpu in gpus for size in draw(st.sampled_from([(1,), (2,), (1, 2)])))
    buckets = draw(st.integers(1, 2))
    rates = draw(st.lists(st.floats(0.1, 2.0), min_size=buckets, max_size=buckets))
    cells = st.sampled_from([0.0, 0.7, 1.0, 1.9, 3.0])
    capacities = np.array(draw(st.lists(cells, min_size=buckets * len(kinds), max_size=buckets * len(kinds))))
    offers = {
        gpu: tuple(
            Offer(name=f"{gpu}{size}", gpus=size, usd_per_hour=draw(st.integers(1, 9)) * size * 0.25)
            for size in draw(st.sampled_from([(2,), (1, 2), (1, 4), (3,), (1, 6)]))
        )
        for gpu in gpus
    }
    caps = {gpu: draw(st.integers(0, 6)) for gpu in gpus if draw(st.booleans())}
    load = RoleLoad(np.array(rates), capacities.reshape(len(kinds), buckets), draw(st.integers(1, 2)))
    return MixProblem(kinds, {"small": load}, offers, caps, draw(st.integers(1, 3)))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(problems())
def test_the_cost_is_that_of_brute_force(problem: MixProblem) -> None:
    found = solve_mix(problem)
    (load,) = problem.roles.values()
    if not (load.capacities > 0).any(axis=0).all():
        assert isinstance(found, Infeasible)
        assert found.unserved
        return
    strict, lenient = (brute_force(problem, spare=spare) for spare in (1e-9, 1e-4))
    if isinstance(found, Infeasible):
        assert lenient == float("inf")
        assert found.missing
        return
    assert found.gap == 0
    assert lenient - 1e-6 <= found.usd_per_hour <= strict + 1e-6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_a_mix_serves_everything_within_its_replicas_and_nodes(problem: MixProblem) -> None:
    found = solve_mix(problem)
    if isinstance(found, Infeasible):
        return
    (load,) = problem.roles.values()
    assert found.shares["small"].sum(axis=0) == pytest.approx(np.ones(len(load.rates)))
    for at, kind in enumerate(problem.kinds):
        assert found.loads["small"][at] <= found.replicas["small"].get(kind, 0) + 1e-5
        assert not found.shares["small"][at][load.capacities[at] == 0].any()
        assert kind in found.replicas["small"] or not found.shares["small"][at].any()
    assert sum(found.replicas["small"].values()) >= load.least
    for gpu, offers in problem.offers.items():
        sizes = {offer.name: offer.gpus for offer in offers}
        nodes = [sizes[name] for (owner, name), count in found.nodes.items() if owner == gpu for _ in range(count)]
        replicas = [
            kind.gpus for kind, count in found.replicas["small"].items() if kind.gpu == gpu for _ in range(count)
        ]
        assert packs(replicas, nodes)
        assert sum(nodes) <= problem.caps.get(gpu, 10**9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(), st.floats(1.0, 4.0))
def test_more_load_never_costs_less(problem: MixProblem, factor: float) -> None:
    (load,) = problem.roles.values()
    heavier = MixProblem(
        problem.kinds,
        {"small": RoleLoad(load.rates * factor, load.capacities, load.least)},
        problem.offers,
        problem.caps,
        problem.slices,
    )
    light, heavy = solve_mix(problem), solve_mix(heavier)
    if isinstance(heavy, Mix):
        assert isinstance(light, Mix)
        assert light.usd_per_hour <= heavy.usd_per_hour + 1e-6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_the_caps_that_are_said_to_be_needed_are_enough_and_the_least(problem: MixProblem) -> None:
    found = solve_mix(problem)
    if not isinstance(found, Infeasible) or found.unserved:
        return
    raised = {gpu: cap + found.missing.get(gpu, 0) for gpu, cap in problem.caps.items()}
    enough = MixProblem(problem.kinds, problem.roles, problem.offers, raised, problem.slices)
    assert isinstance(solve_mix(enough), Mix)
    for gpu in found.missing:
        tight = MixProblem(
            problem.kinds, problem.roles, problem.offers, {**raised, gpu: raised[gpu] - 1}, problem.slices
        )
        assert isinstance(solve_mix(tight), Infeasible)


@pytest.mark.parametrize("rate", [1e-12, 1e-7, 1e-5])
def test_the_rarest_requests_go_to_replicas_that_are_there(rate: float) -> None:
    offers = {name: (Offer(name=name, gpus=1, usd_per_hour=cost),) for name, cost in (("A", 1.0), ("B", 3.0))}
    kinds = (Kind("A", 1), Kind("B", 1))
    load = RoleLoad(np.array([rate, 0.5]), np.array([[0.0, 1.0], [1.0, 1.0]]))
    found = solve_mix(MixProblem(kinds, {"small": load}, offers))
    assert isinstance(found, Mix)
    assert found.replicas["small"] == {kinds[1]: 1}
    assert found.shares["small"].tolist() == [[0, 0], [1, 1]]


def test_roles_share_a_node() -> None:
    offers = {"A": (Offer(name="A8", gpus=8, usd_per_hour=8.0),)}
    load = RoleLoad(np.array([3.0]), np.array([[1.0]]))
    kinds = (Kind("A", 1),)
    both = solve_mix(MixProblem(kinds, {"small": load, "large": load}, offers))
    assert isinstance(both, Mix)
    assert both.usd_per_hour == 8.0
    assert both.replicas == {"small": {kinds[0]: 3}, "large": {kinds[0]: 3}}


def test_a_replica_does_not_span_nodes() -> None:
    offers = {"A": (Offer(name="A1", gpus=1, usd_per_hour=1.0), Offer(name="A4", gpus=4, usd_per_hour=9.0))}
    load = RoleLoad(np.array([1.0]), np.array([[2.0]]))
    found = solve_mix(MixProblem((Kind("A", 4),), {"small": load}, offers))
    assert isinstance(found, Mix)
    assert found.nodes == {("A", "A4"): 1}


def test_a_search_without_a_node_says_so_or_how_far_it_may_be() -> None:
    rng = np.random.default_rng(5)
    kinds = tuple(Kind(name, size) for name in "ABCD" for size in (1, 2, 4))
    load = RoleLoad(rng.uniform(0.5, 5.0, 30), rng.uniform(0.1, 4.0, (12, 30)))
    offers = {name: (Offer(name=name, gpus=8, usd_per_hour=float(rng.uniform(4, 20))),) for name in "ABCD"}
    problem = MixProblem(kinds, {"small": load}, offers)
    quick, thorough = solve_mix(problem, node_limit=1), solve_mix(problem, node_limit=2000)
    assert isinstance(thorough, Mix)
    if isinstance(quick, Mix):
        assert quick.usd_per_hour * (1 - quick.gap) <= thorough.usd_per_hour + 1e-6
    else:
        assert quick.is_undecided


def test_only_one_type_is_another_problem() -> None:
    kinds = (Kind("A", 1), Kind("B", 1))
    offers = {name: (Offer(name=name, gpus=1, usd_per_hour=cost),) for name, cost in (("A", 1.0), ("B", 3.0))}
    load = RoleLoad(np.array([1.0, 1.0]), np.array([[1.0, 0.25], [2.0, 2.0]]))
    problem = MixProblem(kinds, {"small": load}, offers)
    costs = {}
    for name in ("A", "B"):
        found = solve_mix(problem.only(name))
        assert isinstance(found, Mix)
        costs[name] = found.usd_per_hour
    both = solve_mix(problem)
    assert isinstance(both, Mix)
    assert costs == {"A": 5.0, "B": 3.0}
    assert both.usd_per_hour == 3.0
