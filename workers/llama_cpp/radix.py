"""A radix tree over token ids: edges, descent, and keys that name a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from orchestrator.workers.llama_cpp.prefix_cache import Lease


class Node:
    """One edge of the radix tree: the tokens at positions [start, end) of every path through it."""

    __slots__ = ("children", "holder", "last_used", "leases", "locks", "parent", "start", "tokens", "trees")

    def __init__(self, parent: Node | None, start: int, tokens: tuple[int, ...]) -> None:
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.children: dict[int, Node] = {}
        self.holder: int | None = None  # sequence id that keeps a leaf alive when no lease does
        self.leases: set[Lease] = set()
        self.locks = 0  # leases that end at or below this node
        self.last_used = 0
        self.trees: set[str] = set()

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + len(self.tokens)

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


def prefix_keys(salt: str, tokens: Sequence[int]) -> Iterator[int]:
    """For each token a number that stands for it and all before it."""
    key = hash(salt)
    for token in tokens:
        key = hash((key, token))
        yield key
