"""Tree of Thoughts: a model proposes next steps, and judges by itself which of them to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from orchestrator.actions import Answer, Expand, Samples
from orchestrator.errors import ContextOverflow
from orchestrator.policies.search.frontier import FrontierSearch, distinct
from orchestrator.policies.search.judging import Judging, SelfJudge
from orchestrator.policies.search.params import StepParams
from orchestrator.policies.search.proposing import asking_for_steps, read_steps
from orchestrator.policies.search.stepping import Steps
from orchestrator.policies.search.together import together
from orchestrator.policies.selection import Scored
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.sampling import Sampling
from orchestrator.tree import Node


class TreeOfThoughtsParams(StepParams):
    """Parameters of `tree_of_thoughts`."""

    beam: int = Field(3, ge=1, le=1000, description="Partial solutions kept at each level (b)")
    proposals: int = Field(5, ge=1, le=1000, description="Next steps proposed for each of them (k)")
    proposing: Literal["sample", "list"] = Field(
        "sample", description="Proposals are sampled one by one, or listed by the model and then carried out"
    )
    judging: Judging = Field(
        "vote", description="All proposals of a level are compared, or each is valued: sure, likely or impossible"
    )
    num_votes: int = Field(3, ge=1, le=100, description="Votes on a level, or verdicts on each proposal (n)")
    judge: str = Field("", description="Role or name of the model that lists and judges; empty for the one that writes")
    judge_temperature: float = Field(0.7, ge=0, le=5, description="Of lists, votes and verdicts; 0 is greedy")
    max_judge_tokens: int = Field(256, ge=1, description="Most tokens of a list, a vote or a verdict")

    def ask(self, roots: Sequence[Node], num_samples: int) -> Expand:
        """Replies in conversations on the side."""
        return Expand(
            roots,
            num_samples,
            model=self.judge or self.model,
            max_tokens=self.max_judge_tokens,
            sampling=Sampling(temperature=self.judge_temperature),
        )


@policy("tree_of_thoughts", params=TreeOfThoughtsParams, source="Yao et al., 2023, arXiv:2305.10601")
def tree_of_thoughts(query: Query, ctx: PolicyContext[TreeOfThoughtsParams]) -> Policy:
    """Breadth-first search over steps that needs no verifier: the model judges its own proposals.

    At each level every partial solution gets `proposals` next steps, and of all of them the `beam` best are kept, by
    their shares of `num_votes` votes or by their mean verdicts. Kept ones that have finished leave their place in the
    beam. A reply from which no vote can be read does not count, and a step without any is as good as the one before.
    If solutions that finished at different levels disagree, a last vote decides among their answers.
    """
    params = ctx.params
    search = _ThoughtSearch(query, ctx)
    frontier, num_places = [search.root], params.beam
    while frontier:
        search.prefer(frontier[0])
        yield from search.secure(frontier[0])
        grown = distinct((yield from search.grow(frontier, params.proposals)))
        going_on = set((yield from search.harvest(grown)))
        grown.sort(key=lambda partial: partial.score(params.aggregation), reverse=True)  # stable
        frontier = [partial for partial in grown[:num_places] if partial in going_on]
        num_places = len(frontier)
        if frontier:
            yield from search.keep(frontier, f"not among the {params.beam} that the model thinks best")
    return (yield from search.decide())


class _ThoughtSearch(FrontierSearch):
    """A search over steps that the model proposes and judges."""

    def __init__(self, query: Query, ctx: PolicyContext[TreeOfThoughtsParams]) -> None:
        super().__init__(query, ctx.params)
        self._query = query
        self._ctx = ctx
        self._judge = SelfJudge(query, ctx, ctx.params.ask, ctx.params.num_votes)

    def sampled(self, nodes: Sequence[Node], counts: Sequence[int]) -> Steps[Sequence[Node]]:
        """Next steps; where the model is to list them, each begins with what was listed. Without a list, as sampled."""
        params = self._ctx.params
        if params.proposing == "sample":
            return (yield from super().sampled(nodes, counts))
        listed = yield from self._listed(nodes)
        begun = [(node, first) for node in nodes for first in listed.get(node, ())]
        expands = [replace(params.expand([node], 1), forced=f"{first}\n") for node, first in begun]
        unlisted = [node for node in nodes if not listed.get(node)]
        if unlisted:
            expands.append(params.expand(unlisted, params.proposals))
        found = yield from together(expands)
        return [node for nodes in found for node in nodes]

    def _listed(self, nodes: Sequence[Node]) -> Steps[dict[Node, list[str]]]:
        """What the model lists as next steps of each trajectory, as far as that can be read."""
        num_steps = self._ctx.params.proposals
        asked = {self._ctx.new_root(asking_for_steps(self._query, node, num_steps)): node for node in nodes}
        try:
            replies: Samples = yield self._ctx.params.ask(list(asked), 1)
        except ContextOverflow:
            return {}
        self.note(replies.snapshot)
        return {asked[reply.root]: read_steps(reply.text, num_steps=num_steps) for reply in replies}

    def judged_distinct(self, nodes: Sequence[Node]) -> Steps[Sequence[float | None]]:
        """What the model thinks of new steps."""
        judge = self._judge.votes if self._ctx.params.judging == "vote" else self._judge.values
        rewards = yield from judge(nodes)
        self._has_rewards |= any(reward is not None for reward in rewards)
        return rewards

    def decide(self) -> Steps[Answer]:
        """The answer; shares of votes at different levels cannot be compared, so there is one more vote on answers."""
        params = self._ctx.params
        first: dict[str, Node] = {}
        for node in (partial.node for partial in self.finished):
            if node.answer_class is not None:
                first.setdefault(node.answer_class, node)
        if params.judging == "vote" and params.selection != "majority" and len(first) > 1:
            rivals = list(first.values())
            shares = yield from self._judge.votes(rivals)
            scored = [Scored(node, share) for node, share in zip(rivals, shares, strict=True) if share is not None]
            if scored:
                return self.choice(scored)
        return (yield from self.conclude())
