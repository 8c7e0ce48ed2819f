"""REBASE: steps are shared out in proportion to the softmax of process rewards."""

from __future__ import annotations

from pydantic import Field

from orchestrator.policies.search.params import WidthParams
from orchestrator.policies.search.shares import balanced_shares
from orchestrator.policies.search.stepping import StepSearch
from orchestrator.policy import Policy, PolicyContext, Query, policy

NO_SHARE = "its reward was too low for a share of the width"
"""Why a trajectory is given up."""


class RebaseParams(WidthParams):
    """Parameters of `rebase`."""

    balance_temperature: float = Field(
        0.2, gt=0, le=100, description="Of the softmax over rewards; low favours the best"
    )


@policy("rebase", params=RebaseParams, source="Wu et al., 2024, arXiv:2408.00724")
def rebase(query: Query, ctx: PolicyContext[RebaseParams]) -> Policy:
    """Tree search that gives each trajectory steps in proportion to the softmax of its process reward.

    The root gets the whole width. At each level the width that finished trajectories have left is divided among the
    others by `balanced_shares` of their newest rewards, and each is continued as often as its share says. It ends
    when no width or no trajectory is left.
    """
    params = ctx.params
    search = StepSearch(query, params)
    frontier, shares = [search.root], [params.width]
    for _ in range(params.max_depth):
        grown = yield from search.step(frontier, shares)
        shares = balanced_shares(
            [partial.reward for partial in grown], params.width - search.num_ended, params.balance_temperature
        )
        frontier = [partial for partial, share in zip(grown, shares, strict=True) if share]
        shares = [share for share in shares if share]
        if not frontier:
            break
        yield from search.keep(frontier, NO_SHARE)
    return (yield from search.conclude())
