"""What a caller knows of its trees: which replicas hold them, and which releases are still to be told.

A release that keeps something rides on the tree's next call; one that keeps nothing is a call of its own to each
replica that holds the tree. What is never told, because the caller dies or a replica does not answer, the replica's
lease takes care of.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.engine import Prompt
from orchestrator.workers.ray.routing import Release, Routing

_MAX_HOLDERS = 64


@dataclass(slots=True)
class _Tree:
    salt: str = ""
    holders: dict[str, None] = field(default_factory=dict)
    release: Release | None = None
    num_releases: int = 0


class TreeLedger:
    """The trees of one caller.

    Args:
        max_trees: Most that are remembered; those not used for longest are forgotten.
    """

    def __init__(self, *, max_trees: int = 65_536) -> None:
        self._max_trees = max_trees
        self._trees: OrderedDict[str, _Tree] = OrderedDict()
        self._caller = secrets.token_hex(8)

    def __len__(self) -> int:
        return len(self._trees)

    def routing(self, tree_id: str, *, salt: str | None = None) -> Routing:
        """For the next call of a tree; ``salt`` is the one it was first called with, where the call does not say."""
        if not tree_id:
            return Routing(salt=salt or "")
        tree = self._of(tree_id, salt)
        return Routing(tree_id, tree.salt if salt is None else salt, is_known=bool(tree.holders), release=tree.release)

    def answered(self, routing: Routing) -> None:
        """A replica has begun to answer a call: it holds the tree now, and has been told what rode on the call."""
        tree = self._trees.get(routing.tree_id)
        if tree is None or not routing.replica:
            return
        tree.holders.pop(routing.replica, None)
        tree.holders[routing.replica] = None
        if len(tree.holders) > _MAX_HOLDERS:
            del tree.holders[next(iter(tree.holders))]
        if tree.release is routing.release:
            tree.release = None

    def release(self, tree_id: str, keep: Iterable[Prompt] = ()) -> list[Routing]:
        """Notes a release.

        Returns:
            For the calls that have to be made at once, each to one replica that holds the tree.
        """
        kept = tuple(keep)
        tree = self._trees.get(tree_id)
        if tree is None:
            return []
        if not kept:
            del self._trees[tree_id]
            return [Routing(tree_id, tree.salt, is_known=True, only=replica, is_last=True) for replica in tree.holders]
        tree.num_releases += 1
        tree.release = Release(self._caller, tree.num_releases, kept)
        return []

    def _of(self, tree_id: str, salt: str | None) -> _Tree:
        tree = self._trees.get(tree_id)
        if tree is None:
            tree = self._trees[tree_id] = _Tree(salt or "")
            if len(self._trees) > self._max_trees:
                self._trees.popitem(last=False)
        self._trees.move_to_end(tree_id)
        return tree
