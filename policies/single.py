"""One sample, streamed from its first token: what a client without a budget would get."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions import Answer, Commit, Conclude, Samples
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.tree import Node


class SingleParams(SampleParams):
    """Parameters of `single`."""

    n: int = Field(1, ge=1, le=128, description="Independent samples; the first is the answer, others are kept beside")
    temperature: float | None = Field(
        0.0, ge=0, le=5, description="0 is greedy; null takes the sampling of the job instead"
    )


@policy("single", params=SingleParams)
def single(query: Query, ctx: PolicyContext[SingleParams]) -> Policy:
    """One greedy sample.

    A sample that was cut, or that states no answer, is concluded with the answer cue if there is one. It
    makes no claim of confidence.
    """
    yield Commit(query.root)
    samples: Samples = yield ctx.params.expand([query.root], ctx.params.n)
    if not samples:
        return Answer(None)
    sample: Node = samples[0]
    if query.cue and (sample.is_cut or sample.answer is None):
        try:
            concluded: Node = yield Conclude(sample, model=ctx.params.model)
        except BudgetExhausted:
            return Answer(sample.answer, sample)
        if concluded.answer is not None:
            return Answer(concluded.answer, concluded)
    return Answer(sample.answer, sample)
