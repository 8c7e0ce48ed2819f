"""The tree that a selection program chooses from: what keeping each part adds, and what of it needs no search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Fate = Literal["stays", "joins its parent", "goes"]


@dataclass(slots=True)
class SelectionTree:
    """Parts to keep, each only together with its parent. Part 0 is the root, which is always kept.

    Attributes:
        cluster_gain: Worth of each cluster that the kept parts cover.
        parents: Each part's parent, always an earlier part; -1 for the root.
        values: What keeping each adds besides.
        clusters: Labels of the clusters that each covers.
        candidates: Candidates that are kept with each.
    """

    cluster_gain: float
    parents: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    clusters: list[frozenset[int]] = field(default_factory=list)
    candidates: list[tuple[int, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.parents)

    def add(
        self, parent: int, value: float, clusters: frozenset[int] = frozenset(), candidates: tuple[int, ...] = ()
    ) -> None:
        """One more part."""
        self.parents.append(parent)
        self.values.append(value)
        self.clusters.append(clusters)
        self.candidates.append(candidates)

    def candidates_of(self, parts: set[int]) -> list[int]:
        """Candidates that are kept with these parts, ascending."""
        return sorted(candidate for part in parts for candidate in self.candidates[part])

    def value(self, parts: set[int]) -> float:
        """What keeping these parts is worth."""
        covered = frozenset[int]().union(*(self.clusters[part] for part in parts))
        return math.fsum(self.values[part] for part in parts) + self.cluster_gain * len(covered)

    def reduced(self, *, is_empty_allowed: bool) -> SelectionTree:
        """A smaller tree with the same best choice.

        Parts that pay for themselves whatever else is kept join their parents; parts that could not pay even if they
        alone covered all their clusters are left out. The root remains alone where that settles everything.

        Args:
            is_empty_allowed: Whether nothing but the root may be kept; else parts that cannot pay have to stay.
        """
        tree, size = self, -1
        while size != len(tree):
            size = len(tree)
            tree = tree._with_clusters_settled()
            least = tree._best_below(tree.values)
            tree = tree._after(["joins its parent" if value >= 0 else "stays" for value in least])
            tree = tree._with_clusters_settled()
            tree = tree._after(tree._losses(is_empty_allowed=is_empty_allowed))
        return tree

    def greedy(self, *, is_empty_allowed: bool) -> set[int]:
        """Parts chosen one after another, each with those above it, by what they add to what is kept already.

        Ends when nothing adds anything; the first choice must hold a candidate if there has to be one.
        """
        kept, covered = {0}, set(self.clusters[0])
        must_choose = not is_empty_allowed and not self.candidates[0]
        while True:
            gains = [0.0]
            for part in range(1, len(self)):
                own = self.values[part] + self.cluster_gain * len(self.clusters[part] - covered)
                above = self.parents[part]
                gains.append(own + (0.0 if above in kept else gains[above]))
            open_parts = [part for part in range(len(self)) if part not in kept]
            if must_choose:
                open_parts = [part for part in open_parts if self.candidates[part]]
            best = max(open_parts, key=gains.__getitem__, default=None)
            if best is None or (gains[best] <= 0 and not must_choose):
                return kept
            must_choose = False
            while best not in kept:
                kept.add(best)
                covered |= self.clusters[best]
                best = self.parents[best]

    def _best_below(self, own: Sequence[float]) -> list[float]:
        """The most that each part and parts below it add up to, if each is worth its entry of ``own``."""
        most = list(own)
        for part in range(len(self) - 1, 0, -1):
            most[self.parents[part]] += max(0.0, most[part])
        return most

    def _with_clusters_settled(self) -> SelectionTree:
        """Without clusters that a part above covers; a cluster that one part alone covers becomes part of its value."""
        clusters, covered = [self.clusters[0]], [self.clusters[0]]
        for part in range(1, len(self)):
            above = covered[self.parents[part]]
            own = self.clusters[part] - above
            clusters.append(own)
            covered.append(above | own if own else above)
        owners = Counter(label for own in clusters for label in own)
        tree = SelectionTree(self.cluster_gain)
        for part, own in enumerate(clusters):
            shared = own if part == 0 else frozenset(label for label in own if owners[label] > 1)
            value = self.values[part] + self.cluster_gain * (len(own) - len(shared))
            tree.add(self.parents[part], value, shared, self.candidates[part])
        return tree

    def _losses(self, *, is_empty_allowed: bool) -> list[Fate]:
        """What costs more than all it could cover goes, and so do childless siblings of equal clusters but the best."""
        worth = [value + self.cluster_gain * len(own) for value, own in zip(self.values, self.clusters, strict=True)]
        most = self._best_below(worth)
        parents = set(self.parents)
        twins: dict[tuple[int, frozenset[int], bool], int] = {}
        for part in range(1, len(self)):
            if part not in parents:
                key = (self.parents[part], self.clusters[part], bool(self.candidates[part]))
                twins[key] = max(twins.get(key, part), part, key=self.values.__getitem__)
        kept = {part for part in (parents | set(twins.values())) - {-1} if most[part] > 0 or not is_empty_allowed}
        return ["stays" if part in kept else "goes" for part in range(len(self))]

    def _after(self, fates: Sequence[Fate]) -> SelectionTree:
        """With parts joined to their parents or gone, these with all below them; the root stays."""
        tree = SelectionTree(self.cluster_gain)
        tree.add(-1, self.values[0], self.clusters[0], self.candidates[0])
        places: list[int | None] = [0]
        for part in range(1, len(self)):
            above = places[self.parents[part]]
            if above is None or fates[part] == "goes":
                places.append(None)
            elif fates[part] == "stays":
                places.append(len(tree))
                tree.add(above, self.values[part], self.clusters[part], self.candidates[part])
            else:
                places.append(above)
                tree.values[above] += self.values[part]
                tree.clusters[above] |= self.clusters[part]
                tree.candidates[above] += self.candidates[part]
        return tree
