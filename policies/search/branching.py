"""Adaptive branching: a tree of whole solutions that decides by Thompson sampling whether to go wider or deeper."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.policies.search.posteriors import Posterior, thompson_choice
from orchestrator.tree import Node

if TYPE_CHECKING:
    import numpy as np


class Attempt:
    """A solution in the tree; the top of the tree is the query, without a solution.

    Args:
        prior: Makes a posterior that has learnt nothing yet.
        parent: The attempt it improves on; None for the top.
        node: The solution; None for the top.
        score: Of the solution, in [0, 1]; None if it has none, which is no evidence for or against it.

    Attributes:
        children: Attempts that improve on it (below the top: first attempts), in order.
        conversation: The root that children continue; None as long as there was none.
        generate: Scores of new children.
        go_on: Scores of what was found below the children.
        worth: Scores found from here on, its own the first.
    """

    def __init__(
        self,
        prior: Callable[[], Posterior],
        parent: Attempt | None = None,
        node: Node | None = None,
        score: float | None = None,
    ) -> None:
        self._prior = prior
        self._parent = parent
        self.node = node
        self.score = score
        self.children: list[Attempt] = []
        self.conversation: Node | None = None
        self.generate = prior()
        self.go_on = prior()
        self.worth = prior()

    def choose(self, rng: np.random.Generator) -> Attempt:
        """Which attempt is to have another child, seen from here (AB-MCTS-A: Inoue et al., 2025, section 3).

        At each attempt with children, a draw of `generate` that beats one of `go_on` ends the way down; else it leads
        on to the child with the largest draw of its `worth`.
        """
        attempt = self
        while attempt.children:
            if attempt.generate.draw(rng) > attempt.go_on.draw(rng):
                break
            attempt = thompson_choice({child: child.worth for child in attempt.children}, rng)
        return attempt

    def add(self, node: Node, score: float | None) -> Attempt:
        """A new child; its score is what was generated here, and what going on was worth at each attempt above."""
        child = Attempt(self._prior, self, node, score)
        self.children.append(child)
        if score is not None:
            self.generate.add(score)
            child.worth.add(score)
            attempt = self
            while attempt._parent is not None:
                attempt.worth.add(score)
                attempt._parent.go_on.add(score)
                attempt = attempt._parent
        return child
