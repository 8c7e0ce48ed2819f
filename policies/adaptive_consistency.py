"""Adaptive-Consistency: self-consistency that stops as soon as its leader is unlikely to change."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from orchestrator.actions import Propose, Samples
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policies.voting import Votes, votes_to_reach
from orchestrator.policy import Policy, PolicyContext, Query, policy


class AdaptiveConsistencyParams(SampleParams):
    """Parameters of `adaptive_consistency`; the defaults are the paper's."""

    max_samples: int = Field(40, ge=1, le=200, description="Most samples")
    min_samples: int = Field(1, ge=1, le=200, description="Samples drawn before it may stop")
    confidence: float = Field(0.95, gt=0, lt=1, description="Stop at this posterior; the job's target goes first")
    parallel: int = Field(8, ge=1, le=64, description="Most samples in flight; never more than a stop still needs")
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
    version=2,
)
def adaptive_consistency(query: Query, ctx: PolicyContext[AdaptiveConsistencyParams]) -> Policy:
    """Samples until the leading answer is the majority with the wanted probability.

    Draws the very samples that the paper's one-at-a-time rule draws, several at once: no more than would all have to
    agree with the leader before the rule could stop, so none is drawn in vain. Samples without an answer do not vote;
    if none has one, see `Votes.answer`.
    """
    params = ctx.params
    target = params.confidence if ctx.target_confidence is None else ctx.target_confidence
    posterior = Votes.majority_posterior if params.rule == "beta" else Votes.dirichlet_posterior
    votes, proposed = Votes(), None
    while votes.num_samples < params.max_samples:
        # The Dirichlet posterior is never above the cheaper Beta one, so what the latter needs is needed in any case.
        needed = max(1, votes_to_reach(target, votes), params.min_samples - votes.num_samples)
        wanted = min(needed, params.parallel, params.max_samples - votes.num_samples)
        samples: Samples = yield params.expand([query.root], wanted)
        for sample in samples:
            votes.add(sample)
        if votes.leader != proposed:
            proposed = votes.leader
            yield Propose(votes.answer(confidence=posterior(votes)))
        has_enough = votes.num_samples >= params.min_samples and votes_to_reach(target, votes) == 0
        if samples.is_partial or (has_enough and (posterior(votes) or 0.0) >= target):
            break
    return votes.answer(confidence=posterior(votes))
