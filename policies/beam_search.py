"""Beam search: the best trajectories so far are each continued several times."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions import Answer
from orchestrator.policies.search.params import WidthParams
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.policy import Policy, PolicyContext, Query, policy


class BeamSearchParams(WidthParams):
    """Parameters of `beam_search`."""

    expansion: int = Field(4, ge=1, le=1000, description="Continuations of each trajectory that is kept")


@policy("beam_search", params=BeamSearchParams, source="Snell et al., 2024, arXiv:2408.03314, section 5.1")
def beam_search(query: Query, ctx: PolicyContext[BeamSearchParams]) -> Policy:
    """Keeps the width / expansion best trajectories at each level and continues each of them expansion times.

    Trajectories that have ended leave their place: with w places left, the ceil(w / expansion) with the best scores
    are kept, and the last of them gets what the others leave of w.
    """
    return (yield from searched(StepSearch(query, ctx.params), ctx.params))


def searched(search: StepSearch, params: BeamSearchParams) -> Steps[Answer]:
    """The answer of a beam search, whatever its rewards are made of."""
    frontier, counts = [search.root], [params.width]
    for _ in range(params.max_depth):
        grown = yield from search.step(frontier, counts)
        places = params.width - search.num_ended
        num_kept = -(-places // params.expansion)
        grown.sort(key=lambda partial: partial.score(params.aggregation), reverse=True)  # stable
        frontier = grown[:num_kept]
        if not frontier:
            break
        yield from search.keep(frontier, f"not among the {num_kept} best")
        counts = [params.expansion] * len(frontier)
        counts[-1] = min(params.expansion, places - sum(counts[:-1]))
    return (yield from search.conclude())
