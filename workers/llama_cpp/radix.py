"""A radix tree over token ids: edges, descent, and keys that name a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from orchestrator.workers.llama_cpp.prefix_cache import Lease


class Node:
    """One edge of the radix tree: the tokens at positions [start, end) of every path through it."""

    __slots__ = (
        "_end_key",
        "children",
        "holder",
        "last_used",
        "leases",
        "locks",
        "owners",
        "parent",
        "start",
        "start_key",
        "tokens",
    )

    def __init__(self, parent: Node | None, start: int, tokens: tuple[int, ...], *, start_key: int) -> None:
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.start_key = start_key  # stands for the prefix before its first token
        self._end_key: int | None = None
        self.children: dict[int, Node] = {}
        self.holder: int | None = None  # sequence id that keeps a leaf alive when no lease does
        self.leases: set[Lease] = set()
        self.locks = 0  # leases that end at or below this node
        self.last_used = 0
        self.owners: set[object] = set()  # whom it is pinned to

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + len(self.tokens)

    @property
    def end_key(self) -> int:
        """Stands for the prefix that ends with its last token."""
        if self._end_key is None:
            keys = list(prefix_keys(self.start_key, self.tokens))
            self._end_key = keys[-1] if keys else self.start_key
        return self._end_key

    def cut(self, position: int) -> Node:
        """Cuts the edge in two at ``position``; this node keeps the lower part, and the upper one is returned."""
        parent = self.parent
        assert parent is not None
        assert self.start < position < self.end
        cut = position - self.start
        upper = Node(parent, self.start, self.tokens[:cut], start_key=self.start_key)
        upper.locks, upper.last_used = self.locks, self.last_used
        parent.children[upper.tokens[0]] = upper
        self.parent, self.start, self.tokens, self.start_key = upper, position, self.tokens[cut:], upper.end_key
        upper.children[self.tokens[0]] = self
        return upper

    def grow(self, tokens: Sequence[int]) -> Node:
        """Hangs an edge below it."""
        child = Node(self, self.end, tuple(tokens), start_key=self.end_key)
        self.children[child.tokens[0]] = child
        return child

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, the root left out."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class Descent(NamedTuple):
    """Where a descent ended: in or at the end of ``node``, after ``length`` tokens."""

    node: Node
    length: int


def new_root(salt: object) -> Node:
    """The root of a tree that shares nothing with those of other salts."""
    return Node(None, 0, (), start_key=hash(salt))


def descend(start: Node, tokens: Sequence[int], limit: int) -> Descent:
    """The node, from ``start`` down, in or at whose end the longest cached prefix of ``tokens[:limit]`` ends."""
    node, position = start, start.end
    while position < limit and (child := node.children.get(tokens[position])) is not None:
        edge = child.tokens
        room = min(len(edge), limit - position)
        if room == len(edge) and tuple(tokens[position : position + room]) == edge:
            node, position = child, position + room
            continue
        same = 0
        while same < room and edge[same] == tokens[position + same]:
            same += 1
        return Descent(child, position + same)
    return Descent(node, position)


def prefix_keys(key: int, tokens: Sequence[int]) -> Iterator[int]:
    """For each token a number that stands for it and all before it, where ``key`` stands for what is before them."""
    for token in tokens:
        key = hash((key, token))
        yield key
