"""Best-of-n: sample several solutions, let a verifier choose."""

from __future__ import annotations

from orchestrator.policies.sample_params import SampleParams
from orchestrator.policies.voting import Votes
from pydantic import Field

from orchestrator.actions import Answer, Propose, Samples, Score, ScoreList
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.tree import Node


class BestOfNParams(SampleParams):
    """Parameters of `best_of_n`."""

    n: int = Field(8, ge=1, le=1000, description="Samples")
    verifier: str = Field("generative", min_length=1, description="Name of the verifier that scores them")
    weighted: bool = Field(False, description="Choose the answer with the largest sum of scores, not the best sample")


@policy(
    "best_of_n",
    params=BestOfNParams,
    source="Cobbe et al., 2021, arXiv:2110.14168; weighted: Li et al., 2023, arXiv:2206.02336",
)
def best_of_n(query: Query, ctx: PolicyContext[BestOfNParams]) -> Policy:
    """The answer of the best-scored of n samples.

    Weighted, it is the answer whose samples have the largest sum of scores (as in Snell et al., 2024); either way
    confidence is the score of the sample that is returned. A missing score is left out, never taken for 0; without
    any score the majority decides and there is no confidence. Samples without an answer lose to all that have one;
    if none has, there is no text and the node is the best-scored sample.
    """
    params = ctx.params
    samples: Samples = yield params.expand([query.root], params.n)
    majority = Votes(samples).answer()
    if not samples:
        return majority
    yield Propose(majority)  # stands if the verifier cannot be paid for
    scores: ScoreList = yield Score(samples.nodes, verifier=params.verifier)
    scored = [(node, score) for node, score in zip(samples, scores, strict=True) if score is not None]
    if not scored:
        return majority
    return _weighted(scored) if params.weighted else _best(scored)


def _best(scored: list[tuple[Node, float]]) -> Answer:
    """The best-scored sample; each other answer is an alternative with its best score."""
    descending = sorted(scored, key=lambda pair: pair[1], reverse=True)  # stable: equals stay in order
    best: dict[str, tuple[Node, float]] = {}
    for node, score in descending:
        if node.answer_class is not None:
            best.setdefault(node.answer_class, (node, score))
    (winner, top), *rivals = best.values() or descending[:1]
    return Answer(
        winner.answer,
        winner,
        confidence=top,
        confidence_kind="verifier",
        alternatives=tuple((node.answer or "", score) for node, score in rivals),
    )


def _weighted(scored: list[tuple[Node, float]]) -> Answer:
    """The answer with the largest sum of scores."""
    votes = Votes()
    for node, score in scored:
        votes.add(node, score)
    if votes.leader is None:
        return _best(scored)
    winner = votes.best_node(votes.leader)
    confidence = next(score for node, score in scored if node is winner)
    return votes.answer(confidence=confidence, kind="verifier")
