"""Partial solutions: what a search over steps grows, compares and finishes."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.step_scores import Aggregation, aggregated
from orchestrator.tree import Node

UNKNOWN_REWARD = 0.5
"""Of a first step that the verifier gave no score."""


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A trajectory from the root to its newest step.

    Attributes:
        node: The newest step; the root for an empty trajectory.
        rewards: Scores of its steps in [0, 1], from the first step on.
    """

    node: Node
    rewards: tuple[float, ...] = ()

    def extended(self, node: Node, reward: float | None) -> Partial:
        """With one more step. A missing reward is no evidence: the step is taken to be as good as the one before."""
        if reward is None:
            reward = self.rewards[-1] if self.rewards else UNKNOWN_REWARD
        return Partial(node, (*self.rewards, reward))

    def until(self, depth: int) -> Partial:
        """Its first ``depth`` steps; all of it where it has no more than that."""
        return self if depth >= len(self.rewards) else Partial(self.node.path()[depth], self.rewards[:depth])

    @property
    def reward(self) -> float:
        """Score of the newest step; 1 for an empty trajectory, in which nothing is wrong yet."""
        return self.rewards[-1] if self.rewards else 1.0

    def score(self, how: Aggregation) -> float:
        """Score of the whole trajectory; 1 for an empty one."""
        return aggregated(self.rewards, how) if self.rewards else 1.0
