"""Cascade: ask the small model a few times, and the large one only if the small one does not agree with itself."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from orchestrator.actions import Expand, Propose, Samples, Snapshot
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.voting import Votes, leader_probability
from orchestrator.policy import Policy, PolicyContext, PolicyParams, Query, policy
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.tree import Node


class CascadeParams(PolicyParams):
    """Parameters of `cascade`."""

    small: str = Field("small", min_length=1, description="Role or name of the model asked first")
    large: str = Field("large", min_length=1, description="Role or name of the model asked in doubt")
    n_small: int = Field(6, ge=1, le=200, description="Most samples of the small model")
    batch: int = Field(3, ge=1, le=200, description="Samples of the small model drawn at once")
    threshold: float = Field(
        0.9, gt=0, lt=1, description="Accept the small model at this posterior; the job's target goes first"
    )
    n_large: int = Field(1, ge=1, le=200, description="Samples of the large model; greedy if 1")
    large_weight: int = Field(5, ge=1, le=1000, description="Votes of one sample of the large model")
    temperature: float = Field(0.7, ge=0, le=5, description="0 is greedy")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens per sample; null for the configured default")

    def from_small(self, root: Node, num_samples: int) -> Expand:
        """Samples of the small model."""
        sampling = Sampling(temperature=self.temperature)
        return Expand([root], num_samples, model=self.small, max_tokens=self.max_tokens, sampling=sampling)

    def from_large(self, root: Node) -> Expand:
        """The samples of the large model."""
        sampling = GREEDY if self.n_large == 1 else Sampling(temperature=self.temperature)
        return Expand([root], self.n_large, model=self.large, max_tokens=self.max_tokens, sampling=sampling)


@policy(
    "cascade",
    params=CascadeParams,
    source="Chen et al., 2023 (FrugalGPT), arXiv:2305.05176; Aggarwal et al., 2023 (AutoMix), arXiv:2310.12963",
    stops_at_confidence=True,
    roles=("small", "large"),
)
def cascade(query: Query, ctx: PolicyContext[CascadeParams]) -> Policy:
    """The small model's answer if its samples agree, else the vote of both models.

    Agreement is the posterior that the leader is the majority of the top two; it takes the place of the learned
    scorer of FrugalGPT and of the self-verification of AutoMix. The small model is given up early once even
    agreement of all its remaining samples could not reach the threshold. In the vote after an escalation each large
    sample counts as `large_weight` small ones, in the confidence too; equals go to the small model's answer. The
    escalation is left out when fewer output tokens are left than the shortest small sample took.
    """
    params = ctx.params
    threshold = params.threshold if ctx.target_confidence is None else ctx.target_confidence
    votes = Votes()
    while True:
        num_left = params.n_small - votes.num_samples
        samples: Samples = yield params.from_small(query.root, min(params.batch, num_left))
        for sample in samples:
            votes.add(sample)
        confidence = votes.majority_posterior()
        small_answer = votes.answer(confidence=confidence)
        if small_answer.text is not None:
            yield Propose(small_answer)
        if confidence is not None and confidence >= threshold:
            return small_answer
        num_left = params.n_small - votes.num_samples
        if samples.is_partial or num_left == 0 or not _can_reach(threshold, votes, num_left):
            break
    if not _can_afford_large(samples.snapshot, samples):
        return small_answer
    try:
        large: Samples = yield params.from_large(query.root)
    except BudgetExhausted:
        return small_answer
    for sample in large:
        votes.add(sample, params.large_weight)
    return votes.answer(confidence=votes.majority_posterior())


def _can_reach(threshold: float, votes: Votes, num_left: int) -> bool:
    first, second = votes.top_two
    return leader_probability(int(first) + num_left, int(second)) >= threshold


def _can_afford_large(snapshot: Snapshot, samples: Sequence[Node]) -> bool:
    tokens_left = snapshot.remaining.get("output_tokens")
    shortest = min((sample.output_tokens for sample in samples), default=1)
    return tokens_left is None or tokens_left >= max(1, shortest)
