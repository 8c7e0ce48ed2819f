"""Grows trajectories by one step at a time, sets finished ones aside, and chooses among them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeVar

from orchestrator.actions import Action, Answer, Conclude, Propose, Release, Samples, Score, ScoreList
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.search.params import StepParams, StepSearchParams
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.selection import Scored, best, weighted_majority
from orchestrator.policies.voting import Votes
from orchestrator.policy import Query
from orchestrator.tree import Node

_T = TypeVar("_T")

Steps = Generator[Action, Any, _T]
"""A part of a policy, used by ``yield from``. Any: the outcome depends on the action."""


class StepSearch:
    """One search: what has finished, what was given up, and the best answer so far.

    Args:
        query: The query.
        params: How steps are sampled and judged.

    Attributes:
        root: The empty trajectory.
        finished: Trajectories whose model ended its turn or stated an answer, in order.
        given_up: Trajectories that grew too long, in order.
    """

    def __init__(self, query: Query, params: StepParams) -> None:
        self._params = params
        self._cue = query.cue
        self._newest: list[Partial] = []
        self._proposed = Answer(None)
        self._has_rewards = False
        self.root = Partial(query.root)
        self.finished: list[Partial] = []
        self.given_up: list[Partial] = []

    @property
    def num_ended(self) -> int:
        """Trajectories that grow no more; each has left its place in the width."""
        return len(self.finished) + len(self.given_up)

    def step(self, partials: Sequence[Partial], num_samples: int | Sequence[int]) -> Steps[list[Partial]]:
        """Buys and scores one more step of each trajectory, and returns those that may go on, in order.

        It is `grow` and then `harvest`.
        """
        grown = yield from self.grow(partials, num_samples)
        return (yield from self.harvest(grown))

    def grow(self, partials: Sequence[Partial], num_samples: int | Sequence[int]) -> Steps[list[Partial]]:
        """Buys and scores one more step of each trajectory, and returns all there are, in order: ended ones too.

        Args:
            partials: What to extend, distinct.
            num_samples: Samples of each, or one number (0 is allowed) per trajectory.

        Raises:
            BudgetExhausted: There is no money to go on. What was bought before that has been counted, and if no
                trajectory states an answer, the conclusion of the best one has been proposed.
        """
        counts = [num_samples] * len(partials) if isinstance(num_samples, int) else list(num_samples)
        wanted = [(partial, count) for partial, count in zip(partials, counts, strict=True) if count]
        if not wanted:
            return []
        parents = {partial.node.id: partial for partial, _ in wanted}
        nodes: Sequence[Node] = ()
        try:
            nodes = yield from self.sampled([partial.node for partial, _ in wanted], [count for _, count in wanted])
            rewards = (yield from self.judged(nodes)) if nodes else ()
        except BudgetExhausted:
            yield from self._wind_up([parents[_parent_id(node)].extended(node, None) for node in nodes])
            raise
        return [parents[_parent_id(node)].extended(node, reward) for node, reward in zip(nodes, rewards, strict=True)]

    def sampled(self, nodes: Sequence[Node], counts: Sequence[int]) -> Steps[Sequence[Node]]:
        """New steps that continue nodes, as many of each as ``counts`` says or as can be paid for."""
        samples: Samples = yield self._params.expand(nodes, counts)
        return samples.nodes

    def judged(self, nodes: Sequence[Node]) -> Steps[Sequence[float | None]]:
        """The rewards of new steps, in [0, 1]; None where the verifier gave none."""
        assert isinstance(self._params, StepSearchParams), "without a verifier a search judges steps in its own way"
        scores: ScoreList = yield Score(nodes, verifier=self._params.verifier)
        self._has_rewards |= any(score is not None for score in scores)
        return scores

    def harvest(self, grown: Iterable[Partial]) -> Steps[list[Partial]]:
        """Sets aside what has ended; returns the rest. Proposes the best answer so far if there is news of it."""
        going_on: list[Partial] = []
        for partial in grown:
            if partial.node.is_final:
                self.finished.append(partial)
            elif partial.node.trajectory_tokens >= self._params.max_tokens:
                self.given_up.append(partial)
            else:
                going_on.append(partial)
        self._newest = going_on or self._newest
        yield from self.propose(self.best_so_far())
        return going_on

    def propose(self, answer: Answer) -> Steps[None]:
        """Publishes the best answer so far, unless there is none or nothing has changed."""
        if answer.text is not None and answer != self._proposed:
            self._proposed = answer
            yield Propose(answer)

    def keep(self, partials: Sequence[Partial], reason: str) -> Steps[None]:
        """Lets go of the KV of all trajectories but these."""
        yield Release(tuple(partial.node for partial in partials), reason)

    def best_so_far(self) -> Answer:
        """The choice among finished trajectories that state an answer; without one, no text."""
        return self.choice([Scored(partial.node, partial.score(self._params.aggregation)) for partial in self.finished])

    def choice(self, scored: Iterable[Scored]) -> Answer:
        """The selected answer of those that trajectories state; no text if none does.

        As long as the verifier has given no reward at all, the majority decides and no confidence is claimed.
        """
        answered = [item for item in scored if item.node.answer_class is not None]
        if not answered:
            return Answer(None)
        match self._params.selection:
            case "majority":
                votes = Votes(node for node, _ in answered)
                return votes.answer(confidence=votes.majority_posterior())
            case _ if not self._has_rewards:
                return Votes(node for node, _ in answered).answer()
            case "best":
                return best(answered)
            case "weighted_majority":
                return weighted_majority(answered)

    def conclude(self) -> Steps[Answer]:
        """The answer of the search.

        If no trajectory states one, the best of the finished, else of the newest and of those given up is concluded
        where there is a cue; failing that, a finished text is the answer as it is.
        """
        answer = self.best_so_far()
        candidates = self.finished or [*self._newest, *self.given_up]
        if answer.text is not None or not candidates:
            return answer
        top = max(candidates, key=lambda partial: partial.score(self._params.aggregation))
        if self._cue:
            try:
                concluded: Node = yield Conclude(top.node, model=self._params.model)
            except BudgetExhausted:
                return Answer(None, top.node)
            if concluded.answer is not None:
                return Answer(concluded.answer, concluded)
        if not self.finished:
            return Answer(None, top.node)
        if not self._has_rewards:
            return Answer(top.node.trajectory, top.node)
        confidence = top.score(self._params.aggregation)
        return Answer(top.node.trajectory, top.node, confidence=confidence, confidence_kind="verifier")

    def _wind_up(self, unscored: Iterable[Partial]) -> Steps[None]:
        """The budget is spent: counts steps that have no reward yet, and proposes the answer there is then."""
        yield from self.harvest(unscored)
        answer = yield from self.conclude()
        yield from self.propose(answer)


def _parent_id(node: Node) -> str:
    assert node.parent is not None, "a sample continues a node"
    return node.parent.id
