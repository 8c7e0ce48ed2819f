"""Lookahead search: beam search in which a step is worth what the reward says a few greedy steps further on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap

from pydantic import Field

from orchestrator.actions import Answer, Release, Samples
from orchestrator.policies.beam_search import BeamSearchParams, searched
from orchestrator.policies.search.partial import UNKNOWN_REWARD
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.policies.selection import Scored
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.sampling import GREEDY
from orchestrator.tree import Node


class LookaheadParams(BeamSearchParams):
    """Parameters of `lookahead`."""

    lookahead: int = Field(1, ge=0, le=100, description="Greedy steps by which a new step is rolled out; 0 for none")


@policy("lookahead", params=LookaheadParams, source="Snell et al., 2024, arXiv:2408.03314, section 5.1")
def lookahead(query: Query, ctx: PolicyContext[LookaheadParams]) -> Policy:
    """Beam search that scores each new step by the reward at the end of a greedy rollout of it.

    The rollout goes on at temperature 0 (unless the job prescribes its sampling) for `lookahead` steps, or until it
    ends; a level of width w costs w (lookahead + 1) steps and w rewards. Without lookahead it is `beam_search`.

    A rollout is no trajectory of the search: it is let go as soon as it has been scored, and has no vote, because
    those of one level are near copies of one another and of those of the level before. But it was paid for, so one
    that states an answer is a best answer so far, and the answer of a search that ends with no other.
    """
    search = _RolloutSearch(query, ctx.params)
    return (yield from searched(search, ctx.params))


class _RolloutSearch(StepSearch):
    """Judges steps by their rollouts."""

    def __init__(self, query: Query, params: LookaheadParams) -> None:
        super().__init__(query, params)
        self._lookahead = params.lookahead
        self._stated: dict[Node, float] = {}  # ends of rollouts that state an answer, with their rewards

    def judged(self, nodes: Sequence[Node]) -> Steps[Sequence[float | None]]:
        """The rewards at the ends of the rollouts of new steps; None where the verifier gave none."""
        ends = yield from self._rolled_out(nodes)
        rewards = yield from super().judged(ends)
        self._stated |= {
            end: reward for end, reward in zip(ends, rewards, strict=True) if end in self._stated and reward is not None
        }
        yield from self.propose(self.best_so_far())
        if ends != list(nodes):
            yield Release(tuple(nodes), "a rollout, which has served its purpose")
        return rewards

    def _rolled_out(self, nodes: Sequence[Node]) -> Steps[list[Node]]:
        """The last node of each rollout; a step that has ended is its own."""
        ends = list(nodes)
        for _ in range(self._lookahead):
            unended = [end for end in ends if not end.is_final and end.trajectory_tokens < self._params.max_tokens]
            if not unended:
                break
            samples: Samples = yield replace(self._params.expand(unended, 1), sampling=GREEDY)
            following = {node.parent: node for node in samples}
            ends = [following.get(end, end) for end in ends]
            self._stated |= {
                node: UNKNOWN_REWARD for node in samples if node.is_final and node.answer_class is not None
            }
        return ends

    def best_so_far(self) -> Answer:
        """The choice among the search's own trajectories; where none states an answer, among rollouts."""
        answer = super().best_so_far()
        return answer if answer.text is not None else self.choice(starmap(Scored, self._stated.items()))
