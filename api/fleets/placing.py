"""Whether replicas find room on nodes: first fit by size, accelerator by accelerator. No Ray in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Replicas of a model, with those of the models that run in its place.

    Attributes:
        name: The model.
        count: Replicas.
        cpus: Cores of one.
        gpus: Accelerators of one: a share of one, or a whole number.
        kind: Type of accelerator; None for any.
    """

    name: str
    count: int
    cpus: float
    gpus: float = 0.0
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Nodes of one kind.

    Attributes:
        name: The kind, or the node.
        cpus: Cores of one.
        gpus: Accelerators of one.
        kind: Type of its accelerators.
        count: How many nodes.
    """

    name: str
    cpus: float
    gpus: int = 0
    kind: str | None = None
    count: int = 1


@dataclass(slots=True)
class _Room:
    cpus: float
    kind: str | None
    gpus: list[float] = field(default_factory=list)

    def take(self, demand: Demand) -> bool:
        if demand.cpus > self.cpus + _EPSILON or (demand.gpus and demand.kind not in {None, self.kind}):
            return False
        chosen = self._gpus_for(demand.gpus)
        if chosen is None:
            return False
        self.cpus -= demand.cpus
        share = demand.gpus if demand.gpus < 1 else 1.0
        for number in chosen:
            self.gpus[number] -= share
        return True

    def _gpus_for(self, wanted: float) -> list[int] | None:
        """Numbers of the accelerators: the fullest that still has the share, or as many free ones; None if none."""
        if wanted == 0:
            return []
        if wanted < 1:
            fitting = [number for number, free in enumerate(self.gpus) if free + _EPSILON >= wanted]
            return [min(fitting, key=lambda number: self.gpus[number])] if fitting else None
        free = [number for number, left in enumerate(self.gpus) if left > 1 - _EPSILON]
        return free[: int(wanted)] if len(free) >= wanted else None


def unplaced(demands: Sequence[Demand], nodes: Sequence[Node]) -> dict[str, int]:
    """Replicas that find no room, by model; those that need most are placed first.

    Args:
        demands: What is to be placed.
        nodes: Empty ones.
    """
    rooms = [
        _Room(node.cpus, node.kind, [1.0] * node.gpus)
        for node in nodes
        for _ in range(min(node.count, _most_useful(demands)))
    ]
    rooms.sort(key=lambda room: (len(room.gpus), room.cpus))  # nodes without accelerators are filled before others
    left: dict[str, int] = {}
    for demand in sorted(demands, key=lambda one: (-one.gpus, -one.cpus, one.name)):
        placed = 0
        for room in rooms:
            while placed < demand.count and room.take(demand):
                placed += 1
                if not demand.cpus and not demand.gpus:
                    placed = demand.count
        if placed < demand.count:
            left[demand.name] = demand.count - placed
    return left


def _most_useful(demands: Sequence[Demand]) -> int:
    """No more nodes of a kind than replicas are ever used."""
    return max(sum(demand.count for demand in demands), 1)


def taken(demand: Demand) -> str:
    """What one replica takes, for people."""
    kind = "" if demand.kind is None else f" {demand.kind}"
    gpus = f" and {demand.gpus:g} accelerators{kind}" if demand.gpus else ""
    return f"{demand.cpus:g} cores{gpus}"


def shown(node: Node) -> str:
    """Nodes of a kind, for people."""
    gpus = f", {node.gpus} {node.kind or 'accelerators'}" if node.gpus else ""
    count = f"{node.count} x " if node.count > 1 else ""
    return f"{count}{node.name} ({node.cpus:g} cores{gpus})"
