"""AB-MCTS-A: whole solutions, drawn anew or improved, as Thompson sampling decides; also which model writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field, field_validator

from orchestrator.actions import Answer, Conclude, Expand, Propose, Release, Score
from orchestrator.errors import BudgetExhausted, ContextOverflow
from orchestrator.policies.search.branching import Attempt
from orchestrator.policies.search.improving import improving
from orchestrator.policies.search.posteriors import PRIORS, PriorName, thompson_choice
from orchestrator.policies.search.together import together
from orchestrator.policies.selection import Scored, best, weighted_majority
from orchestrator.policies.voting import Votes
from orchestrator.policy import Policy, PolicyContext, PolicyParams, Query, policy
from orchestrator.sampling import Sampling
from orchestrator.tree import Node


class Solution(NamedTuple):
    """A solution, and its score in [0, 1] if it has one."""

    node: Node
    score: float | None


class AbMctsParams(PolicyParams):
    """Parameters of `ab_mcts`."""

    models: tuple[str, ...] = Field(
        ("small",), min_length=1, description="Roles or names of the models to choose from, separated by commas"
    )
    verifier: str = Field("generative", min_length=1, description="Name of the verifier that scores solutions")
    max_samples: int = Field(32, ge=1, le=10_000, description="Solutions written")
    parallel: int = Field(4, ge=1, le=1024, description="Solutions written at the same time, before any is scored")
    prior: PriorName = Field("gaussian", description="What is assumed of scores: normal-inverse-chi-squared, or beta")
    temperature: float | None = Field(
        0.7, ge=0, le=5, description="0 is greedy; null takes the sampling of the job instead"
    )
    max_tokens: int | None = Field(None, ge=1, description="Most tokens per solution; null for the configured default")
    weighted: bool = Field(False, description="Choose the answer with the largest sum of scores, not the best solution")

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    def expand(self, conversations: Sequence[Node], model: str) -> Expand:
        """One more solution for each mention of a conversation."""
        counts = Counter(conversations)
        sampling = None if self.temperature is None else Sampling(temperature=self.temperature)
        return Expand(tuple(counts), tuple(counts.values()), model=model, max_tokens=self.max_tokens, sampling=sampling)


@policy("ab_mcts", params=AbMctsParams, source="Inoue et al., 2025, arXiv:2503.04412 (AB-MCTS-A)")
def ab_mcts(query: Query, ctx: PolicyContext[AbMctsParams]) -> Policy:
    """Writes whole solutions and decides by Thompson sampling whether to start afresh or to improve an earlier one.

    See `Attempt.choose`. To improve is to answer in a conversation that shows the earlier solution and its score. The
    model is chosen by Thompson sampling, too, on the scores of all that each has written. The answer is that of the
    best-scored solution; a missing score teaches nothing, and without any score the majority decides.
    """
    params, rng = ctx.params, ctx.rng
    prior = PRIORS[params.prior]
    top = Attempt(prior)
    top.conversation = query.root
    skills = {model: prior() for model in params.models}
    solutions: list[Solution] = []
    answer = Answer(None)
    num_left = params.max_samples
    while num_left:
        parents: dict[Node, Attempt] = {}
        wanted: dict[str, list[Node]] = {}
        for _ in range(min(params.parallel, num_left)):
            parent = top.choose(rng)
            parent.conversation = parent.conversation or ctx.new_root(improving(query, parent), answers_query=True)
            parents[parent.conversation] = parent
            wanted.setdefault(thompson_choice(skills, rng), []).append(parent.conversation)
        num_left -= sum(map(len, wanted.values()))
        try:
            found = yield from together([params.expand(roots, model) for model, roots in wanted.items()])
        except ContextOverflow:
            continue  # there is no room to improve these solutions in; others may be chosen next
        written = [(model, node) for model, nodes in zip(wanted, found, strict=True) for node in nodes]
        if not written:
            continue
        refusal: BudgetExhausted | None = None
        scores: Sequence[float | None] = (None,) * len(written)
        try:
            scores = yield Score([node for _, node in written], verifier=params.verifier)
        except BudgetExhausted as error:
            refusal = error  # the solutions are paid for, so they count
        for (model, node), score in zip(written, scores, strict=True):
            parents[_conversation(node)].add(node, score)
            solutions.append(Solution(node, score))
            if score is not None:
                skills[model].add(score)
        before, answer = answer, _chosen(solutions, is_weighted=params.weighted)
        if answer.text is not None and answer != before:
            yield Propose(answer)
        if refusal is not None:
            raise refusal
        yield Release([query.root], "a whole solution; it is improved in a conversation of its own")
    if answer.text is None and answer.node is not None and query.cue:
        concluded: Node = yield Conclude(answer.node, model=params.models[0])
        return Answer(concluded.answer, concluded)
    return answer


def _chosen(solutions: Sequence[Solution], *, is_weighted: bool) -> Answer:
    """The best-scored answer, or that with the largest sum of scores; without scores, the majority's."""
    answered = [item for item in solutions if item.node.answer_class is not None]
    scored = [Scored(item.node, item.score) for item in answered if item.score is not None]
    if scored:
        return weighted_majority(scored) if is_weighted else best(scored)
    if answered:
        return Votes(item.node for item in answered).answer()
    known = [item for item in solutions if item.score is not None]
    node = max(known, key=lambda item: item.score or 0.0).node if known else solutions[0].node
    return Answer(None, node)


def _conversation(node: Node) -> Node:
    assert node.parent is not None, "a sample continues a node"
    return node.parent
