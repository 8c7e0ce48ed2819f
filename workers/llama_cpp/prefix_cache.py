"""Which token prefixes are in the KV cache, and who may use them: a radix tree over token ids.

Pure bookkeeping. The cells themselves belong to a `Memory`, which the cache tells what to copy and to remove; every
cell holds one token, and sequences that share a prefix share its cells. Sequence ids and cells are both scarce, and
evicting frees both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.workers.llama_cpp.cells import Extent, Memory
from orchestrator.workers.llama_cpp.holdings import Holdings
from orchestrator.workers.llama_cpp.radix import Node, descend, new_root, prefix_keys

_MAX_EMPTY_ROOTS = 64


class Lease:
    """A live sequence: its id, its tokens in the cache, and the tree node where its shared part ends.

    Attributes:
        sequence: Sequence id.
        tokens: Tokens whose KV is computed, in order.
        num_asked: So many tokens were known when it was acquired; later ones are new.
        owner: To whom its prefixes are pinned.
    """

    __slots__ = ("node", "num_asked", "owner", "sequence", "tokens")

    def __init__(self, sequence: int, node: Node, tokens: list[int], *, num_asked: int, owner: object) -> None:
        self.sequence = sequence
        self.node = node
        self.tokens = tokens
        self.num_asked = num_asked
        self.owner = owner

    @property
    def own_tokens(self) -> int:
        """Tokens that only this sequence holds: computed and not yet committed to the tree."""
        return len(self.tokens) - self.node.end


class PrefixCache:
    """Hands out sequences that start from the longest cached prefix, and keeps what they leave behind.

    Leaves of the tree that no lease ends at are kept alive by a *holder*, a sequence id of their own. Prefixes are
    pinned softly to the owner of the sequences that use them, until it releases them: they are evicted after all
    others, and among them those that somebody is waiting to use go last.

    Args:
        memory: The cells.
        num_cells: How many there are.
        num_sequences: Sequence ids [0, num_sequences) may be used.
        max_idle_cells: Most cells that no live sequence uses and no owner has pinned; None for no limit. Occupied cells
            cost every step of every sequence a little, even where they are masked.

    Attributes:
        holdings: What each owner has of it.
        peak_cells: Most cells that ever held a token.
        evicted_tokens: Tokens that had to make room, or were idle.
    """

    def __init__(
        self, memory: Memory, *, num_cells: int, num_sequences: int, max_idle_cells: int | None = None
    ) -> None:
        self._memory = memory
        self._num_cells = num_cells
        self._num_sequences = num_sequences
        self._max_idle_cells = num_cells if max_idle_cells is None else max_idle_cells
        self._free_ids = list(range(num_sequences - 1, -1, -1))
        self._roots: dict[object, Node] = {}
        self._held: set[Node] = set()
        self._wanted: Counter[Node] = Counter()
        self._leases: set[Lease] = set()
        self._may_be_idle = False
        self._clock = 0
        self._used = 0
        self.holdings = Holdings()
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
    def num_wanted(self) -> int:
        """Times that cached prefixes are wanted by somebody who waits."""
        return self._wanted.total()

    @property
    def num_leases(self) -> int:
        """Live sequences."""
        return len(self._leases)

    def could_hold(self, num_cells: int) -> bool:
        """Whether so many cells are free, or eviction could free them now."""
        if num_cells <= self.free_cells:
            return True
        locked = sum(len(node.tokens) for node in self._nodes() if node.locks)
        own = sum(lease.own_tokens for lease in self._leases)
        return num_cells <= self._num_cells - locked - own

    def match(self, tokens: Sequence[int], *, salt: object = "") -> int:
        """Length of the longest cached prefix; changes nothing."""
        root = self._roots.get(salt)
        return 0 if root is None else descend(root, tokens, len(tokens)).length

    def want(self, tokens: Sequence[int], *, salt: object = "") -> Node:
        """Protects the longest cached prefix for somebody who waits to acquire it, until `unwant` is called."""
        node = descend(self._root(salt), tokens, len(tokens)).node
        self._wanted[node] += 1
        return node

    def unwant(self, node: Node) -> None:
        """Takes back one `want`; the prefix may be gone by now."""
        if self._wanted[node] > 1:
            self._wanted[node] -= 1
        else:
            del self._wanted[node]

    def acquire(self, tokens: Sequence[int], *, limit: int, owner: object, salt: object = "") -> Lease | None:
        """A sequence that starts with the longest cached prefix of ``tokens``, at most ``limit`` of them.

        Returns:
            None when every sequence id is leased.
        """
        found = descend(self._root(salt), tokens, limit)
        node = found.node if found.length == found.node.end else self._split(found.node, found.length)
        self._lock(node, +1)
        sequence = self._id_covering(node)
        if sequence is None:
            self._lock(node, -1)
            return None
        lease = Lease(sequence, node, list(tokens[: node.end]), num_asked=len(tokens), owner=owner)
        node.leases.add(lease)
        self._leases.add(lease)
        self.holdings.begin(owner)
        self._touch(lease)
        return lease

    def reserve(self, num_cells: int) -> bool:
        """Evicts until ``num_cells`` are free; False when what is left is in use."""
        while self.free_cells < num_cells:
            if not self._held:
                return False
            self._evict()
        return True

    def extend(self, lease: Lease, tokens: Sequence[int]) -> int:
        """Takes note that the KV of ``tokens`` was computed at the end of a live sequence.

        Returns:
            How many of them its owner had had in the cache, and lost.
        """
        start = len(lease.tokens)
        lease.tokens.extend(tokens)
        self._used += len(tokens)
        assert self._used <= self._num_cells, "more tokens computed than there are cells"
        self.peak_cells = max(self.peak_cells, self._used)
        self.holdings.grow(lease.owner, len(tokens))
        if start >= lease.num_asked or not self.holdings.of(lease.owner).lost:
            return 0
        *_, key = (lease.node.end_key, *prefix_keys(lease.node.end_key, lease.tokens[lease.node.end : start]))
        return self.holdings.num_lost(lease.owner, key, tokens)

    def commit(self, lease: Lease, *, is_over: bool = False) -> None:
        """Adds a live sequence's own tokens to the tree; cells of tokens that were there already are given back.

        Args:
            lease: The sequence.
            is_over: Nobody is expected to go on from there, so nothing more is pinned.
        """
        shared = lease.node.end
        self.holdings.grow(lease.owner, -lease.own_tokens)
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
            child = parent.grow(lease.tokens[found.length :])
            self._move(lease, child)
            self._drop_holder(parent)
        self._touch(lease, pins=not is_over)

    def close(self, lease: Lease, *, keep: bool = True, is_over: bool = False) -> None:
        """Ends a live sequence; its tokens stay cached if ``keep``, else only those committed before do.

        ``is_over`` is as in `commit`.
        """
        if keep:
            self.commit(lease, is_over=is_over)
        elif lease.own_tokens:
            self._memory.remove(lease.sequence, lease.node.end)
            self._used -= lease.own_tokens
            self.holdings.grow(lease.owner, -lease.own_tokens)
        node = lease.node
        node.leases.remove(lease)
        self._leases.remove(lease)
        self.holdings.end(lease.owner)
        self._lock(node, -1)
        if node.parent is not None and not node.children and not node.leases:
            node.holder = lease.sequence
            self._held.add(node)
        else:
            self._free(lease.sequence)
        self._may_be_idle = True

    def release(self, owner: object, *, keep: Iterable[Sequence[int]] = ()) -> None:
        """Unpins an owner's prefixes, except those on the way to ``keep``; one that keeps none is forgotten."""
        kept: set[Node] = set()
        for tokens in keep:
            for root in self._roots.values():
                kept.update(descend(root, tokens, len(tokens)).node.path())
        self.holdings.release(owner, keep=kept)
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
        self.holdings.clear()
        while self._held:
            self._evict()
        self._roots.clear()
        self._wanted.clear()

    def check_integrity(self) -> None:
        """Compares the books with each other and with the memory.

        Raises:
            AssertionError: They disagree.
        """
        nodes = list(self._nodes())
        resident = sum(len(node.tokens) for node in nodes) + sum(lease.own_tokens for lease in self._leases)
        _check(resident == self._used, f"{self._used} cells counted but {resident} tokens are resident")
        known = {*nodes, *self._roots.values()}
        _check(self._wanted.keys() <= known, "somebody wants a prefix that is gone")
        _check(all(count > 0 for count in self._wanted.values()), "nobody wants a prefix that is marked as wanted")
        ids: dict[int, int] = {}
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
                _check(node.holder not in ids, "a sequence id is used twice")
                ids[node.holder] = node.end
        self.holdings.check_integrity(nodes, ((lease.owner, lease.own_tokens) for lease in self._leases))
        for lease in self._leases:
            _check(lease.sequence not in ids, "a sequence id is used twice")
            _check(lease in lease.node.leases, "a live sequence is not at its node")
            ids[lease.sequence] = len(lease.tokens)
        _check(len(self._free_ids) == len(set(self._free_ids)), "a sequence id is free twice")
        for sequence in self._free_ids:
            _check(sequence not in ids, "a sequence id is free and in use")
            ids[sequence] = 0
        _check(len(ids) == self._num_sequences, "a sequence id leaked")
        for sequence, length in ids.items():
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
        """Cells that no live sequence uses and no owner has pinned."""
        return sum(len(node.tokens) for node in self._nodes() if not node.locks and not node.owners)

    def _root(self, salt: object) -> Node:
        if salt not in self._roots:
            if len(self._roots) >= _MAX_EMPTY_ROOTS:
                self._roots = {
                    name: root
                    for name, root in self._roots.items()
                    if root.children or root.leases or root in self._wanted
                }
            self._roots[salt] = new_root(salt)
        return self._roots[salt]

    def _touch(self, lease: Lease, *, pins: bool = True) -> None:
        self._clock += 1
        for node in lease.node.path():
            node.last_used = self._clock
            if pins:
                self.holdings.pin(lease.owner, node)

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
        upper = node.cut(position)
        self.holdings.split(node, upper)
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

    def _evict(self) -> int:
        """Drops the least recently used leaf that no lease needs, unpinned ones first, wanted ones last.

        Returns:
            The cells freed.
        """
        node = min(self._held, key=lambda leaf: (bool(leaf.owners), leaf in self._wanted, leaf.last_used))
        parent, holder = node.parent, node.holder
        assert parent is not None
        assert holder is not None
        self._held.remove(node)
        del parent.children[node.tokens[0]]
        self.holdings.evict(node)
        self._wanted.pop(node, None)
        self._used -= len(node.tokens)
        self.evicted_tokens += len(node.tokens)
        if parent.parent is None or parent.children or parent.leases:
            self._free(holder)
        else:
            self._memory.remove(holder, node.start)
            parent.holder = holder
            self._held.add(parent)
        return len(node.tokens)


def _check(is_true: bool, complaint: str) -> None:
    if not is_true:
        raise AssertionError(complaint)
