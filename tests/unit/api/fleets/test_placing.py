"""Whether replicas find room on nodes."""

from __future__ import annotations

import pytest

from orchestrator.api.fleets.placing import Demand, Node, unplaced

GPU = Node(name="gpu", cpus=8, gpus=2, kind="A10G", count=2)
CPU = Node(name="cpu", cpus=4, count=3)


def demand(count: int = 1, *, name: str = "m", cpus: float = 1, gpus: float = 0, kind: str | None = None) -> Demand:
    return Demand(name=name, count=count, cpus=cpus, gpus=gpus, kind=kind)


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (demand(28), {}),
        (demand(29), {"m": 1}),
        (demand(5, cpus=4), {}),
        (demand(8, cpus=4), {"m": 1}),
        (demand(1, cpus=9), {"m": 1}),
        (demand(4, gpus=1), {}),
        (demand(5, gpus=1), {"m": 1}),
        (demand(2, gpus=2), {}),
        (demand(1, gpus=3), {"m": 1}),
        (demand(8, gpus=0.5), {}),
        (demand(4, gpus=0.6), {}),
        (demand(5, gpus=0.6), {"m": 1}),
        (demand(12, gpus=1 / 3), {}),
        (demand(1, gpus=1, kind="A10G"), {}),
        (demand(1, gpus=1, kind="H100"), {"m": 1}),
        (demand(1, cpus=0), {}),
    ],
)
def test_replicas_are_placed_accelerator_by_accelerator(wanted: Demand, left: dict[str, int]):
    assert unplaced([wanted], [GPU, CPU]) == left


def test_whole_accelerators_are_taken_before_shares_of_them_are():
    shares, whole = demand(2, name="shares", gpus=0.5), demand(3, name="whole", gpus=1)
    assert unplaced([shares, whole], [GPU]) == {}


def test_what_needs_no_accelerator_leaves_nodes_with_some_to_others():
    assert unplaced([demand(8, name="plain"), demand(4, name="gpu", gpus=1, cpus=4)], [GPU, CPU]) == {}


def test_a_hundred_thousand_nodes_are_no_more_work_than_the_replicas_need():
    many = Node(name="many", cpus=4, gpus=1, count=100_000)
    assert unplaced([demand(3, gpus=1)], [many]) == {}
