"""Statistics of a Monte-Carlo tree search: what was visited how often, what it was worth, where to go next."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal

from orchestrator.policies.search.partial import Partial

FormulaName = Literal["uct", "puct"]


class Visited:
    """A trajectory in the search tree.

    A leaf is open while it may be expanded; selection goes to open leaves only, so that no simulation is spent on what
    has ended. A leaf that is being expanded is not open, and counts on its path as visits that were worth nothing
    (virtual loss: Chaslot et al., 2008), which sends the next simulation of the same batch elsewhere.

    Args:
        partial: The trajectory.
        parent: The one it continues; None for the root.
        prior: Its share of the softmax of its own and its siblings' values.

    Attributes:
        children: What continues it, in order.
        visits: Values backed up through it.
        value_sum: Their sum.
        num_open: Open leaves from here on, itself included.
        num_pending: Simulations under way from here on.
    """

    __slots__ = ("children", "num_open", "num_pending", "parent", "partial", "prior", "value_sum", "visits")

    def __init__(self, partial: Partial, parent: Visited | None = None, prior: float = 1.0) -> None:
        self.partial = partial
        self.parent = parent
        self.prior = prior
        self.children: list[Visited] = []
        self.visits = 0
        self.value_sum = 0.0
        self.num_open = 1 if parent is None else 0
        self.num_pending = 0

    def begin(self, formula: Formula, exploration: float) -> Visited:
        """The open leaf that a simulation leads to from here; it is being expanded from now on. There must be one."""
        node = self
        while node.children:
            num_visits = node.visits + node.num_pending
            node = max(node.open_children, key=lambda child: formula(child, num_visits, exploration))
        for above in node.path():
            above.num_open -= 1
            above.num_pending += 1
        return node

    def end(self, found: Sequence[Partial], values: Sequence[float], *, going_on: Collection[Partial]) -> None:
        """The simulation that expanded this leaf is over: adds what it found and backs the values up to the root.

        Args:
            found: Trajectories that continue this one.
            values: Of each, in [0, 1].
            going_on: Those that may be expanded.
        """
        for above in self.path():
            above.num_pending -= 1
        for partial, value, prior in zip(found, values, softmax(values), strict=True):
            child = Visited(partial, self, prior)
            self.children.append(child)
            for node in child.path():
                node.visits += 1
                node.value_sum += value
                node.num_open += partial in going_on

    @property
    def mean(self) -> float:
        """Mean value, with what is under way at 0; 0 without any visit."""
        return self.value_sum / max(1, self.visits + self.num_pending)

    @property
    def open_children(self) -> list[Visited]:
        """Children that lead to an open leaf or are one."""
        return [child for child in self.children if child.num_open]

    def path(self) -> Iterator[Visited]:
        """From here up to the root."""
        node: Visited | None = self
        while node is not None:
            yield node
            node = node.parent

    def open_leaves(self) -> list[Visited]:
        """Those from here on, in depth-first order."""
        found: list[Visited] = []
        stack = [self]
        while stack:
            node = stack.pop()
            if not node.children and node.num_open:
                found.append(node)
            stack += reversed(node.open_children)
        return found

    def most_visited_leaf(self) -> Visited:
        """Where one gets by always going to the most visited child that leads to an open leaf; there must be one."""
        node = self
        while node.children:
            node = max(node.open_children, key=lambda child: child.visits)
        return node


Formula = Callable[[Visited, int, float], float]
"""How much a child deserves the next simulation, given its parent's visits and the weight of exploration."""


def uct(child: Visited, num_visits: int, exploration: float) -> float:
    """Mean value + c P sqrt(ln n_parent / n), with P the child's prior (Kocsis and Szepesvari, 2006, with a prior)."""
    num_own = max(1, child.visits + child.num_pending)
    return child.mean + exploration * child.prior * math.sqrt(math.log(max(1, num_visits)) / num_own)


def puct(child: Visited, num_visits: int, exploration: float) -> float:
    """Mean value + c P sqrt(n_parent) / (1 + n) (Silver et al., 2017)."""
    return child.mean + exploration * child.prior * math.sqrt(num_visits) / (1 + child.visits + child.num_pending)


FORMULAS: Mapping[FormulaName, Formula] = {"uct": uct, "puct": puct}


def softmax(values: Sequence[float]) -> list[float]:
    """Shares in proportion to e^value; none for none."""
    weights = [math.exp(value - max(values)) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
