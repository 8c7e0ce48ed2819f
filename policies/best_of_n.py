"""Best-of-n: sample several solutions, let a verifier choose."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions import Answer, Conclude, Propose, Samples, Score, ScoreList
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policies.selection import Scored, best, weighted_majority
from orchestrator.policies.voting import Votes
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
    if none has, the best-scored sample is concluded where there is a cue, and else its whole text is the answer.
    """
    params = ctx.params
    samples: Samples = yield params.expand([query.root], params.n)
    majority = Votes(samples).answer()
    if majority.text is not None:
        yield Propose(majority)  # stands if the verifier cannot be paid for
    if not samples:
        return majority
    scores: ScoreList = yield Score(samples.nodes, verifier=params.verifier)
    scored = [Scored(node, score) for node, score in zip(samples, scores, strict=True) if score is not None]
    with_answer = [item for item in scored if item.node.answer_class is not None]
    if with_answer:
        return weighted_majority(with_answer) if params.weighted else best(with_answer)
    if not scored or majority.text is not None:
        return majority
    node, top = max(scored, key=lambda item: item.score)
    if query.cue:
        concluded: Node = yield Conclude(node, model=params.model)
        if concluded.answer is not None:
            return Answer(concluded.answer, concluded)
    return Answer(node.trajectory, node, confidence=top, confidence_kind="verifier")
