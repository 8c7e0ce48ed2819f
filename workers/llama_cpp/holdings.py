"""What each owner has of the cache: pinned prefixes, how many cells, and which tokens it lost to eviction.

An owner is a tree, or a request that belongs to none. Pins are soft: they put a prefix behind all unpinned ones when
room has to be made. What was evicted while it was pinned is remembered, so that computing it again can be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.workers.llama_cpp.radix import Node, prefix_keys

_MAX_OWNERS = 1000
"""Owners that are remembered: some never say that they are done, and the oldest of them is released then."""
_MAX_LOST = 200_000
"""Evicted tokens that are remembered, over all owners."""


class Holding:
    """What one owner has.

    Attributes:
        nodes: Pinned to it.
        cells: Cells of those, and of its live sequences beyond them; a cell that several owners share counts for each.
        peak_cells: Most that it ever were.
        lost: Keys of tokens that were evicted while they were pinned to it.
        num_leases: Its live sequences.
        is_released: It is done, once its live sequences are.
    """

    __slots__ = ("cells", "is_released", "lost", "nodes", "num_leases", "peak_cells")

    def __init__(self) -> None:
        self.nodes: set[Node] = set()
        self.cells = 0
        self.peak_cells = 0
        self.lost: set[int] = set()
        self.num_leases = 0
        self.is_released = False

    def grow(self, num_cells: int) -> None:
        """Takes note of more cells, or fewer."""
        self.cells += num_cells
        self.peak_cells = max(self.peak_cells, self.cells)


class Holdings:
    """The holdings of all owners."""

    def __init__(self) -> None:
        self._of: dict[object, Holding] = {}
        self._num_lost = 0

    @property
    def owners(self) -> frozenset[object]:
        """Those that have pinned prefixes."""
        return frozenset(owner for owner, holding in self._of.items() if holding.nodes)

    def of(self, owner: object) -> Holding:
        """What an owner has; nothing for one that is not known."""
        return self._of.get(owner) or Holding()

    def begin(self, owner: object) -> None:
        """A sequence of the owner becomes live."""
        holding = self._of.get(owner)
        if holding is None:
            if len(self._of) >= _MAX_OWNERS:
                self._release_oldest()
            holding = self._of[owner] = Holding()
        holding.num_leases += 1
        holding.is_released = False

    def end(self, owner: object) -> None:
        """A sequence of the owner is no longer live."""
        holding = self._of[owner]
        holding.num_leases -= 1
        if holding.is_released and not holding.num_leases:
            self.release(owner)

    def grow(self, owner: object, num_cells: int) -> None:
        """A live sequence of the owner holds more cells, or fewer."""
        self._of[owner].grow(num_cells)

    def pin(self, owner: object, node: Node) -> None:
        """Pins a prefix to the owner of a live sequence."""
        if owner in node.owners:
            return
        node.owners.add(owner)
        holding = self._of[owner]
        holding.nodes.add(node)
        holding.grow(len(node.tokens))
        if holding.lost:
            self._num_lost -= len(holding.lost)
            holding.lost.difference_update(prefix_keys(node.start_key, node.tokens))
            self._num_lost += len(holding.lost)

    def split(self, node: Node, upper: Node) -> None:
        """Whoever has ``node`` has the upper part that was cut off it."""
        upper.owners = set(node.owners)
        for owner in upper.owners:
            self._of[owner].nodes.add(upper)

    def evict(self, node: Node) -> None:
        """A prefix is gone from the cache; its owners have lost it."""
        if not node.owners:
            return
        keys = list(prefix_keys(node.start_key, node.tokens))
        for owner in node.owners:
            holding = self._of[owner]
            holding.nodes.discard(node)
            holding.cells -= len(node.tokens)
            self._num_lost -= len(holding.lost)
            holding.lost.update(keys)
            self._num_lost += len(holding.lost)
        node.owners.clear()
        while self._num_lost > _MAX_LOST:
            oldest = next(holding for holding in self._of.values() if holding.lost)
            self._num_lost -= len(oldest.lost)
            oldest.lost.clear()

    def release(self, owner: object, *, keep: Iterable[Node] = ()) -> None:
        """Unpins an owner's prefixes except ``keep``; an owner that keeps nothing is done."""
        holding = self._of.get(owner)
        if holding is None:
            return
        kept = holding.nodes.intersection(keep)
        for node in holding.nodes - kept:
            node.owners.discard(owner)
            holding.cells -= len(node.tokens)
        holding.nodes = kept
        if kept:
            return
        holding.is_released = True
        if not holding.num_leases:
            self._drop(owner)

    def num_lost(self, owner: object, key: int, tokens: Sequence[int]) -> int:
        """How many of ``tokens``, which follow the prefix ``key`` stands for, the owner had and lost."""
        lost = self.of(owner).lost
        return sum(found in lost for found in prefix_keys(key, tokens)) if lost else 0

    def clear(self) -> None:
        """Releases everybody; no sequence may be live."""
        for owner in tuple(self._of):
            self.release(owner)

    def check_integrity(self, nodes: Sequence[Node], own_cells: Iterable[tuple[object, int]]) -> None:
        """Compares the books with the radix tree.

        Args:
            nodes: All of it.
            own_cells: For each live sequence its owner, and the cells that only it holds.

        Raises:
            AssertionError: They disagree.
        """
        cells = dict.fromkeys(self._of, 0)
        leases = dict.fromkeys(self._of, 0)
        for node in nodes:
            for owner in node.owners:
                assert node in self._of[owner].nodes, "a pin is not filed"
                cells[owner] += len(node.tokens)
        for owner, count in own_cells:
            cells[owner] += count
            leases[owner] += 1
        for owner, holding in self._of.items():
            assert all(owner in node.owners for node in holding.nodes), "a pin is filed for another owner"
            assert holding.cells == cells[owner], f"{owner}: {holding.cells} cells counted, {cells[owner]} held"
            assert holding.num_leases == leases[owner], f"{owner}: {holding.num_leases} leases, {leases[owner]} live"
            assert holding.peak_cells >= holding.cells, f"{owner}: more cells than ever"
        assert self._num_lost == sum(len(holding.lost) for holding in self._of.values()), "lost tokens are miscounted"

    def _release_oldest(self) -> None:
        for owner, holding in self._of.items():
            if not holding.num_leases:
                self.release(owner)
                return

    def _drop(self, owner: object) -> None:
        self._num_lost -= len(self._of.pop(owner).lost)
