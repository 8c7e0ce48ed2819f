"""What searches that go on anywhere in the tree share: equal steps, a depth limit, a last resort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.actions import Samples, Snapshot
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.search.params import StepParams
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.policy import Query
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.tree import Node

RESERVED_SHARE = 0.25
"""Of the budget: when no more is left and nothing has stated an answer, one trajectory is written to its end."""


class FrontierSearch(StepSearch):
    """A search over steps that scores equal continuations once, and knows what it would finish first."""

    def __init__(self, query: Query, params: StepParams) -> None:
        super().__init__(query, params)
        self._first_left: dict[str, float] = {}
        self._share_left = 1.0
        self._has_secured = False

    def prefer(self, partial: Partial) -> None:
        """Says which open trajectory is to be concluded if the budget ends before any has finished."""
        self._newest = [partial] if partial.rewards else []

    def secure(self, partial: Partial) -> Steps[None]:
        """Completes a trajectory, once, if the budget runs out and nothing has stated an answer yet."""
        is_due = self._share_left < RESERVED_SHARE and bool(partial.rewards) and self.best_so_far().text is None
        if is_due and not self._has_secured:
            self._has_secured = True
            yield from self.complete(partial)

    def sampled(self, nodes: Sequence[Node], counts: Sequence[int]) -> Steps[Sequence[Node]]:
        """As `StepSearch.sampled`; notes what is left of the budget."""
        samples: Samples = yield self._params.expand(nodes, counts)
        self.note(samples.snapshot)
        return samples.nodes

    def note(self, snapshot: Snapshot) -> None:
        """Learns what is left of the budget, by the cap of which the least is left."""
        left: dict[str, float] = dict(snapshot.remaining)
        if snapshot.remaining_s is not None:
            left["seconds"] = snapshot.remaining_s
        self._first_left = self._first_left or left
        shares = [left[name] / first for name, first in self._first_left.items() if first and name in left]
        self._share_left = min(shares, default=1.0)

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

    def harvest(self, grown: Iterable[Partial]) -> Steps[list[Partial]]:
        """As `StepSearch.harvest`; trajectories of the most steps there may be are given up, too."""
        going_on = yield from super().harvest(grown)
        self.given_up += [partial for partial in going_on if self._is_deep(partial)]
        return [partial for partial in going_on if not self._is_deep(partial)]

    def complete(self, partial: Partial) -> Steps[None]:
        """Has the model write the rest of a trajectory in one go at temperature 0, if there is money for that."""
        yield from self.roll_out([partial], GREEDY)

    def roll_out(self, partials: Sequence[Partial], sampling: Sampling | None) -> Steps[dict[Partial, Partial]]:
        """Has the model write the rest of trajectories, each in one go, and harvests what that gives.

        Args:
            partials: What to write on from, distinct.
            sampling: How tokens are chosen; None for the job's.

        Returns:
            By trajectory, what became of it; those that there was no money for are left out.
        """
        most = self._params.max_tokens - min(partial.node.trajectory_tokens for partial in partials)
        rest = replace(
            self._params.expand([partial.node for partial in partials], 1),
            max_tokens=max(1, most),
            sampling=sampling,
            stop=(),
        )
        nodes: Sequence[Node] = ()
        rewards: Sequence[float | None] = ()
        try:
            samples: Samples = yield rest
            nodes, rewards = samples.nodes, (None,) * len(samples)
            rewards = (yield from self.judged(nodes)) if nodes else ()
        except BudgetExhausted:
            pass  # what there is by now counts
        before = {partial.node: partial for partial in partials}
        ends = {
            before[node.parent]: before[node.parent].extended(node, reward)
            for node, reward in zip(nodes, rewards, strict=True)
            if node.parent is not None
        }
        yield from super().harvest(ends.values())
        return ends

    def _is_deep(self, partial: Partial) -> bool:
        return len(partial.rewards) >= self._params.max_depth


def distinct(partials: Iterable[Partial]) -> list[Partial]:
    """Of trajectories that continue the same one in the same way, only the first."""
    first: dict[tuple[object, ...], Partial] = {}
    for partial in partials:
        first.setdefault(_continuation(partial.node), partial)
    return list(first.values())


def _continuation(node: Node) -> tuple[object, ...]:
    """What makes two samples the same step: what they continue, what they say, and whether they end there."""
    return node.parent, node.text, node.is_final
