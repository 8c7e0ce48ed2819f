"""Which token prefixes are in the KV cache, and who may use them: a radix tree over token ids.

Pure bookkeeping. The cells themselves belong to a `Memory`, which the cache tells what to copy and to remove; every
cell holds one token, and sequences that share a prefix share its cells. Sequence ids and cells are both scarce, and
evicting frees both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from orchestrator.workers.llama_cpp.radix import Node, descend, prefix_keys

_MAX_GHOSTS = 200_000
"""Evicted tokens that are remembered, so that computing them again can be counted."""


class Extent(NamedTuple):
    """First and last position that a sequence holds; -1 and -1 if it holds none."""

    first: int
    last: int


class Memory(Protocol):
    """KV cells of one context, addressed by sequence id and position."""

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Makes ``target`` share the cells of ``source`` at positions [start, end)."""
        ...

    def remove(self, sequence: int, start: int) -> None:
        """Takes ``sequence`` off its cells from position ``start`` on; cells nobody holds become free."""
        ...

    def remove_range(self, sequence: int, start: int, end: int) -> None:
        """The same for positions [start, end)."""
        ...

    def extent(self, sequence: int) -> Extent:
        """Positions the sequence holds now."""
        ...


class Lease:
    """A live sequence: its id, its tokens in the cache, and the tree node where its shared part ends.

    Attributes:
        sequence: Sequence id.
        tokens: Tokens whose KV is computed, in order.
    """

    __slots__ = ("node", "sequence", "tokens", "tree_id")

    def __init__(self, sequence: int, node: Node, tokens: list[int], tree_id: str) -> None:
        self.sequence = sequence
        self.node = node
        self.tokens = tokens
        self.tree_id = tree_id

    @property
    def own_tokens(self) -> int:
        """Tokens that only this sequence holds: computed and not yet committed to the tree."""
        return len(self.tokens) - self.node.end


class PrefixCache:
    """Hands out sequences that start from the longest cached prefix, and keeps what they leave behind.

    Leaves of the tree that no lease ends at are kept alive by a *holder*, a sequence id of their own. Prefixes used
    by a tree are pinned to it softly: they are evicted after all others.

    Args:
        memory: The cells.
        num_cells: How many there are.
        num_sequences: Sequence ids [0, num_sequences) may be used.
        max_idle_cells: Most cells that neither a live sequence nor a tree uses; None for no limit. Occupied cells cost
            every step of every sequence a little, even where they are masked.
    """

    def __init__(
        self, memory: Memory, *, num_cells: int, num_sequences: int, max_idle_cells: int | None = None
    ) -> None:
        self._memory = memory
        self._num_cells = num_cells
        self._num_sequences = num_sequences
        self._max_idle_cells = num_cells if max_idle_cells is None else max_idle_cells
        self._free_ids = list(range(num_sequences - 1, -1, -1))
        self._roots: dict[str, Node] = {}
        self._held: set[Node] = set()
        self._leases: set[Lease] = set()
        self._tree_nodes: dict[str, set[Node]] = {}
        self._ghosts: dict[int, None] = {}
        self._may_be_idle = False
        self._clock = 0
        self._used = 0
        self.peak_cells = 0
        self.evicted_tokens = 0

    @property
    def used_cells(self) -> int:
        """Cells that hold a token."""
        return self._used

    @property
    def free_cells(self) -> int:
        """Cells that hold none."""
        return self._num_cells - self._used

    @property
    def num_leases(self) -> int:
        """Live sequences."""
        return len(self._leases)

    @property
    def pinned_trees(self) -> frozenset[str]:
        """Trees that have pinned prefixes."""
        return frozenset(self._tree_nodes)

    def could_hold(self, num_cells: int) -> bool:
        """Whether so many cells are free, or eviction could free them now."""
        if num_cells <= self.free_cells:
            return True
        locked = sum(len(node.tokens) for node in self._nodes() if node.locks)
        own = sum(lease.own_tokens for lease in self._leases)
        return num_cells <= self._num_cells - locked - own

    def match(self, tokens: Sequence[int], *, salt: str = "") -> int:
        """Length of the longest cached prefix; changes nothing."""
        root = self._roots.get(salt)
        return 0 if root is None else descend(root, tokens, len(tokens)).length

    def acquire(self, tokens: Sequence[int], *, limit: int, salt: str = "", tree_id: str = "") -> Lease | None:
        """A sequence that starts with the longest cached prefix of ``tokens``, at most ``limit`` of them.

        Returns:
            None when every sequence id is leased.
        """
        root = self._roots.setdefault(salt, Node(None, 0, ()))
        found = descend(root, tokens, limit)
        node = found.node if found.length == found.node.end else self._split(found.node, found.length)
        self._lock(node, +1)
        sequence = self._id_covering(node)
        if sequence is None:
            self._lock(node, -1)
            return None
        lease = Lease(sequence, node, list(tokens[: node.end]), tree_id)
        node.leases.add(lease)
        self._leases.add(lease)
        self._touch(lease)
        return lease

    def reserve(self, num_cells: int) -> bool:
        """Evicts until ``num_cells`` are free; False when what is left is in use."""
        while self.free_cells < num_cells:
            if not self._held:
                return False
            self._evict()
        return True

    def extend(self, lease: Lease, tokens: Sequence[int]) -> None:
        """Takes note that the KV of ``tokens`` was computed at the end of a live sequence."""
        lease.tokens.extend(tokens)
        self._used += len(tokens)
        assert self._used <= self._num_cells, "more tokens computed than there are cells"
        self.peak_cells = max(self.peak_cells, self._used)

    def commit(self, lease: Lease) -> None:
        """Adds a live sequence's own tokens to the tree; cells of tokens that were there already are given back."""
        shared = lease.node.end
        found = descend(lease.node, lease.tokens, len(lease.tokens))
        if found.length > shared:
            source = found.node if found.length == found.node.end else self._split(found.node, found.length)
            self._memory.remove_range(lease.sequence, shared, found.length)
            self._memory.copy(self._cover(source), lease.sequence, shared, found.length)
            self._used -= found.length - shared
            self._move(lease, source)
            self._drop_holder(source)
        if found.length < len(lease.tokens):
            parent = lease.node
            child = Node(parent, found.length, tuple(lease.tokens[found.length :]))
            parent.children[child.tokens[0]] = child
            self._move(lease, child)
            self._drop_holder(parent)
        self._touch(lease)

    def close(self, lease: Lease, *, keep: bool = True) -> None:
        """Ends a live sequence; its tokens stay cached if ``keep``, else only those committed before do."""
        if keep:
            self.commit(lease)
        elif lease.own_tokens:
            self._memory.remove(lease.sequence, lease.node.end)
            self._used -= lease.own_tokens
        node = lease.node
        node.leases.remove(lease)
        self._leases.remove(lease)
        self._lock(node, -1)
        if node.parent is not None and not node.children and not node.leases:
            node.holder = lease.sequence
            self._held.add(node)
        else:
            self._free(lease.sequence)
        self._may_be_idle = True

    def release(self, tree_id: str, *, keep: Iterable[Sequence[int]] = ()) -> None:
        """Unpins the prefixes of a tree, except those on the way to ``keep``."""
        pinned = self._tree_nodes.pop(tree_id, None)
        if pinned is None:
            return
        kept: set[Node] = set()
        for tokens in keep:
            for root in self._roots.values():
                kept.update(descend(root, tokens, len(tokens)).node.path())
        for node in pinned - kept:
            node.trees.discard(tree_id)
        if pinned & kept:
            self._tree_nodes[tree_id] = pinned & kept
        self._may_be_idle = True

    def trim_idle(self) -> None:
        """Evicts what is idle beyond the limit; call it once those that go on from a closed sequence have begun."""
        if not self._may_be_idle or self._used <= self._max_idle_cells:
            return
        self._may_be_idle = False
        excess = self.idle_cells() - self._max_idle_cells
        while excess > 0:  # what is idle is a subtree of idle nodes, so an unpinned leaf exists and goes first
            excess -= self._evict()

    def clear(self) -> None:
        """Evicts everything; no sequence may be live."""
        assert not self._leases, "live sequences hold the cache"
        while self._held:
            self._evict(is_remembered=False)
        self._roots.clear()
        self._tree_nodes.clear()

    def count_recomputed(self, tokens: Sequence[int], start: int, *, salt: str = "") -> int:
        """How many of ``tokens[start:]`` were in the cache once and were evicted; they count only once."""
        if not self._ghosts or start >= len(tokens):
            return 0
        count = 0
        for position, key in enumerate(prefix_keys(salt, tokens)):
            if position >= start and key in self._ghosts:
                del self._ghosts[key]
                count += 1
        return count

    def check_integrity(self) -> None:
        """Compares the books with each other and with the memory.

        Raises:
            AssertionError: They disagree.
        """
        nodes = list(self._nodes())
        resident = sum(len(node.tokens) for node in nodes) + sum(lease.own_tokens for lease in self._leases)
        _check(resident == self._used, f"{self._used} cells counted but {resident} tokens are resident")
        owners: dict[int, int] = {}
        for node in nodes:
            _check(bool(node.tokens), "an edge is empty")
            for first, child in node.children.items():
                _check(child.parent is node and child.start == node.end, "an edge hangs in the wrong place")
                _check(child.tokens[0] == first, "an edge is filed under the wrong token")
            below = len(node.leases) + sum(child.locks for child in node.children.values())
            _check(node.locks == below, f"{node.locks} locks for {below} live sequences")
            is_idle_leaf = not node.children and not node.leases
            _check((node.holder is not None) == is_idle_leaf, "a leaf without holder, or a holder without need")
            _check((node in self._held) == is_idle_leaf, "held leaves are filed wrongly")
            if node.holder is not None:
                _check(node.holder not in owners, "a sequence id is used twice")
                owners[node.holder] = node.end
            for tree_id in node.trees:
                _check(node in self._tree_nodes.get(tree_id, ()), "a pin is not filed")
        for lease in self._leases:
            _check(lease.sequence not in owners, "a sequence id is used twice")
            _check(lease in lease.node.leases, "a live sequence is not at its node")
            owners[lease.sequence] = len(lease.tokens)
        _check(len(self._free_ids) == len(set(self._free_ids)), "a sequence id is free twice")
        for sequence in self._free_ids:
            _check(sequence not in owners, "a sequence id is free and in use")
            owners[sequence] = 0
        _check(len(owners) == self._num_sequences, "a sequence id leaked")
        for sequence, length in owners.items():
            wanted = Extent(0, length - 1) if length else Extent(-1, -1)
            found = self._memory.extent(sequence)
            _check(found == wanted, f"sequence {sequence} should hold {wanted} but holds {found}")

    def _nodes(self) -> Iterator[Node]:
        stack = [child for root in self._roots.values() for child in root.children.values()]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def idle_cells(self) -> int:
        """Cells that neither a live sequence nor a tree uses."""
        return sum(len(node.tokens) for node in self._nodes() if not node.locks and not node.trees)

    def _touch(self, lease: Lease) -> None:
        self._clock += 1
        for node in lease.node.path():
            node.last_used = self._clock
            if lease.tree_id and lease.tree_id not in node.trees:
                node.trees.add(lease.tree_id)
                self._tree_nodes.setdefault(lease.tree_id, set()).add(node)

    def _lock(self, node: Node, change: int) -> None:
        for ancestor in node.path():
            ancestor.locks += change

    def _move(self, lease: Lease, node: Node) -> None:
        """Lets a live sequence end at a descendant of its node."""
        self._lock(lease.node, -1)
        lease.node.leases.remove(lease)
        node.leases.add(lease)
        lease.node = node
        self._lock(node, +1)

    def _split(self, node: Node, position: int) -> Node:
        """Cuts an edge in two at ``position``; returns the upper part."""
        cut = position - node.start
        parent = node.parent
        assert parent is not None
        assert 0 < cut < len(node.tokens)
        upper = Node(parent, node.start, node.tokens[:cut])
        upper.locks, upper.last_used, upper.trees = node.locks, node.last_used, set(node.trees)
        for tree_id in upper.trees:
            self._tree_nodes[tree_id].add(upper)
        parent.children[upper.tokens[0]] = upper
        node.parent, node.start, node.tokens = upper, position, node.tokens[cut:]
        upper.children[node.tokens[0]] = node
        return upper

    def _cover(self, node: Node) -> int:
        """A sequence id that holds the whole path to ``node``."""
        while node.holder is None and not node.leases:
            node = next(iter(node.children.values()))
        return node.holder if node.holder is not None else next(iter(node.leases)).sequence

    def _take_over(self, node: Node) -> int | None:
        """The holder of a leaf, which a new lease makes superfluous."""
        holder, node.holder = node.holder, None
        self._held.discard(node)
        return holder

    def _drop_holder(self, node: Node) -> None:
        if (holder := self._take_over(node)) is not None:
            self._free(holder)

    def _id_covering(self, node: Node) -> int | None:
        """A sequence id for a new lease at ``node``, with the cells up to there; evicts to get one."""
        while (holder := self._take_over(node)) is None:
            if self._free_ids:
                sequence = self._free_ids.pop()
                if node.end:
                    self._memory.copy(self._cover(node), sequence, 0, node.end)
                return sequence
            if not self._held:
                return None
            self._evict()  # may leave its holder to ``node``
        return holder

    def _free(self, sequence: int) -> None:
        self._memory.remove(sequence, 0)
        self._free_ids.append(sequence)

    def _evict(self, *, is_remembered: bool = True) -> int:
        """Drops the least recently used leaf that no lease needs, unpinned ones first; returns the cells freed."""
        node = min(self._held, key=lambda leaf: (bool(leaf.trees), leaf.last_used))
        parent, holder = node.parent, node.holder
        assert parent is not None
        assert holder is not None
        if is_remembered:
            self._remember(node)
        self._held.remove(node)
        del parent.children[node.tokens[0]]
        for tree_id in node.trees:
            pinned = self._tree_nodes[tree_id]
            pinned.discard(node)
            if not pinned:
                del self._tree_nodes[tree_id]
        self._used -= len(node.tokens)
        self.evicted_tokens += len(node.tokens)
        if parent.parent is None or parent.children or parent.leases:
            self._free(holder)
        else:
            self._memory.remove(holder, node.start)
            parent.holder = holder
            self._held.add(parent)
        return len(node.tokens)

    def _remember(self, node: Node) -> None:
        path = [*node.path()]
        root = path[-1].parent
        salt = next(name for name, known in self._roots.items() if known is root)
        tokens = [token for part in reversed(path) for token in part.tokens]
        for position, key in enumerate(prefix_keys(salt, tokens)):
            if position >= node.start:
                self._ghosts[key] = None
        while len(self._ghosts) > _MAX_GHOSTS:
            del self._ghosts[next(iter(self._ghosts))]


def _check(is_true: bool, complaint: str) -> None:
    if not is_true:
        raise AssertionError(complaint)
