"""What searches that go on anywhere in the tree share: distinct steps, a depth limit, a last resort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.actions import Samples
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.sampling import GREEDY
from orchestrator.tree import Node


class FrontierSearch(StepSearch):
    """A search over steps in which equal continuations of a trajectory are one, scored once and gone on from once."""

    def prefer(self, partial: Partial) -> None:
        """Says which open trajectory is to be concluded if the budget ends before any has finished."""
        self._newest = [partial] if partial.rewards else []

    def judged(self, nodes: Sequence[Node]) -> Steps[Sequence[float | None]]:
        """The rewards of new steps; equal ones are scored once."""
        first: dict[tuple[object, ...], Node] = {}
        for node in nodes:
            first.setdefault(_continuation(node), node)
        rewards = yield from self.judged_distinct(list(first.values()))
        known = dict(zip(first, rewards, strict=True))
        return [known[_continuation(node)] for node in nodes]

    def judged_distinct(self, nodes: Sequence[Node]) -> Steps[Sequence[float | None]]:
        """The rewards of new steps, no two of them equal."""
        return (yield from super().judged(nodes))

    def grow(self, partials: Sequence[Partial], num_samples: int | Sequence[int]) -> Steps[list[Partial]]:
        """As `StepSearch.grow`, of equal continuations only the first."""
        grown = yield from super().grow(partials, num_samples)
        first: dict[tuple[object, ...], Partial] = {}
        for partial in grown:
            first.setdefault(_continuation(partial.node), partial)
        return list(first.values())

    def harvest(self, grown: Iterable[Partial]) -> Steps[list[Partial]]:
        """As `StepSearch.harvest`; trajectories of the most steps there may be are given up, too."""
        going_on = yield from super().harvest(grown)
        self.given_up += [partial for partial in going_on if self._is_deep(partial)]
        return [partial for partial in going_on if not self._is_deep(partial)]

    def complete(self, partial: Partial) -> Steps[None]:
        """Has the model write the rest of a trajectory in one go at temperature 0, if there is money for that."""
        most = max(1, self._params.max_tokens - partial.node.trajectory_tokens)
        rest = replace(self._params.expand([partial.node], 1), max_tokens=most, sampling=GREEDY, stop=())
        nodes: Sequence[Node] = ()
        rewards: Sequence[float | None] = ()
        try:
            samples: Samples = yield rest
            nodes, rewards = samples.nodes, (None,) * len(samples)
            rewards = (yield from self.judged(nodes)) if nodes else ()
        except BudgetExhausted:
            pass  # what there is by now counts
        grown = [partial.extended(node, reward) for node, reward in zip(nodes, rewards, strict=True)]
        yield from super().harvest(grown)

    def _is_deep(self, partial: Partial) -> bool:
        return len(partial.rewards) >= self._params.max_depth


def _continuation(node: Node) -> tuple[object, ...]:
    """What makes two samples the same step: what they continue, what they say, and whether they end there."""
    return node.parent, node.text, node.is_final
