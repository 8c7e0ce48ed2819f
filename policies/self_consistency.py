"""Self-consistency: sample several chains of thought, take the answer most of them reach."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions import Propose, Samples
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policies.voting import TieRule, Votes
from orchestrator.policy import Policy, PolicyContext, Query, policy


class SelfConsistencyParams(SampleParams):
    """Parameters of `self_consistency`."""

    n: int = Field(8, ge=1, le=1000, description="Samples")
    ties: TieRule = Field("first", description="Who leads among equals: seen first, or higher mean log probability")


@policy("self_consistency", params=SelfConsistencyParams, source="Wang et al., 2022, arXiv:2203.11171")
def self_consistency(query: Query, ctx: PolicyContext[SelfConsistencyParams]) -> Policy:
    """The majority answer of n samples.

    Samples without an answer do not vote. Confidence is the posterior that the leader is the majority of the
    top two. If no sample has an answer, see `Votes.answer`.
    """
    params = ctx.params
    needs_logprobs = params.ties == "logprob"
    samples: Samples = yield params.expand([query.root], params.n, num_logprobs=int(needs_logprobs))
    votes = Votes(samples, ties=params.ties)
    answer = votes.answer(confidence=votes.majority_posterior())
    if answer.text is not None:
        yield Propose(answer)
    return answer
