"""Adaptive-Consistency: self-consistency that stops as soon as its leader is unlikely to change."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from orchestrator.actions import Cancel, Next, Propose, Start, Stream
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policies.voting import Votes
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.tree import Node


class AdaptiveConsistencyParams(SampleParams):
    """Parameters of `adaptive_consistency`; the defaults are the paper's, except `parallel` (1 there)."""

    max_samples: int = Field(40, ge=1, le=200, description="Most samples")
    min_samples: int = Field(1, ge=1, le=200, description="Samples drawn before it may stop")
    confidence: float = Field(0.95, gt=0, lt=1, description="Stop at this posterior; the job's target goes first")
    parallel: int = Field(4, ge=1, le=64, description="Samples in flight; those cut off at the stop are paid for")
    rule: Literal["beta", "dirichlet"] = Field(
        "beta", description="Posterior that the leader beats its closest rival, or all rivals at once (stricter)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> AdaptiveConsistencyParams:
        if self.min_samples > self.max_samples:
            raise ValueError(f"min_samples={self.min_samples} is more than max_samples={self.max_samples}")
        return self


@policy(
    "adaptive_consistency",
    params=AdaptiveConsistencyParams,
    source="Aggarwal et al., 2023, arXiv:2305.11860",
    stops_at_confidence=True,
)
def adaptive_consistency(query: Query, ctx: PolicyContext[AdaptiveConsistencyParams]) -> Policy:
    """Samples until the leading answer is the majority with the wanted probability.

    Votes count in the order asked for, so short answers get no head start. Samples without an answer do not vote;
    if none has one, see `Votes.answer`.
    """
    params = ctx.params
    target = params.confidence if ctx.target_confidence is None else ctx.target_confidence
    posterior = Votes.majority_posterior if params.rule == "beta" else Votes.dirichlet_posterior
    votes, proposed = Votes(), None
    stream: Stream = yield Start(params.expand([query.root], params.max_samples), parallel=params.parallel)
    while True:
        sample: Node | None = yield Next(stream)
        if sample is None:
            return votes.answer(confidence=posterior(votes))
        votes.add(sample)
        if votes.leader != proposed:
            proposed = votes.leader
            yield Propose(votes.answer(confidence=posterior(votes)))
        # The Dirichlet posterior is never above the cheaper Beta one.
        may_stop = votes.num_samples >= params.min_samples and (votes.majority_posterior() or 0.0) >= target
        if may_stop and (reached := posterior(votes) or 0.0) >= target:
            yield Cancel(stream)
            return votes.answer(confidence=reached)
