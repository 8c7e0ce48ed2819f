"""ETS: REBASE on the candidates whose reward and variety are worth the KV that their branches hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from orchestrator.actions import Compute
from orchestrator.errors import PolicyFailed
from orchestrator.policies.rebase import NO_SHARE, RebaseParams
from orchestrator.policies.search.clustering import StepClusters
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.selection_program import SelectionProgram, chosen_candidates
from orchestrator.policies.search.shares import balanced_shares
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.tree import Node

EMBEDDER = "embedder"
"""The role; a fleet may have no model for it."""


class EtsParams(RebaseParams):
    """Parameters of `ets`."""

    lambda_b: float = Field(1.0, ge=0, le=100, description="What keeping all KV costs, where all shares are worth 1")
    lambda_d: float = Field(
        1.5,
        ge=0,
        le=100,
        description="What covering all kinds of steps is worth, by the same measure; 0 looks at reward and KV alone. "
        "The authors tuned it for each width: 1.5 at 16, 1.4 at 64, 1.45 at 256",
    )
    distance_threshold: float = Field(
        0.05, ge=0, le=2, description="Mean cosine distance up to which steps are of one kind; depends on the embedder"
    )
    node_cost: Literal["node", "tokens"] = Field("node", description="What a node costs: as much as any, or its tokens")
    node_limit: int = Field(
        500, ge=0, le=1_000_000, description="Most nodes of the solver's search; beyond it a heuristic chooses"
    )
    embedder: str = Field(
        EMBEDDER, min_length=1, description="Role or name of the model that embeds steps; else the one that writes"
    )


@policy("ets", params=EtsParams, source="Hooper et al., 2025, arXiv:2502.13575")
def ets(query: Query, ctx: PolicyContext[EtsParams]) -> Policy:
    """REBASE on the candidates that are worth the KV of their branches by their reward and their variety.

    At each level a binary program keeps those candidates x, with the branches y above them, that maximise

        sum_i O_i x_i  -  lambda_b / (M + N) * (sum_j y_j + sum_i x_i)  +  lambda_d / K * (kinds of steps kept)

    for N candidates with REBASE shares O_i (of 1) under M branch nodes, whose steps are of K kinds: clusters of their
    embeddings. REBASE then divides the whole width among those kept. With tokens as costs, each node's part of
    lambda_b is its part of all their tokens.
    """
    params = ctx.params
    search = StepSearch(query, params)
    embedders = [name for name in (params.embedder, params.model) if name != EMBEDDER or name in ctx.roles]
    kinds = StepClusters(embedders, params.distance_threshold)
    frontier, shares = [search.root], [params.width]
    for _ in range(params.max_depth):
        grown = yield from search.step(frontier, shares)
        width = params.width - search.num_ended
        kept, reason = yield from _cover(grown, width, kinds, params)
        shares = _shares(kept, width, params)
        frontier = [partial for partial, share in zip(kept, shares, strict=True) if share]
        shares = [share for share in shares if share]
        if not frontier:
            break
        if len(kept) < len(grown):
            yield from search.keep(kept, reason)
        if len(kept) == len(grown) or len(frontier) < len(kept):
            yield from search.keep(frontier, NO_SHARE)
    return (yield from search.conclude())


def _shares(partials: Sequence[Partial], width: int, params: EtsParams) -> list[int]:
    return balanced_shares([partial.reward for partial in partials], width, params.balance_temperature)


def _cover(
    grown: list[Partial], width: int, kinds: StepClusters, params: EtsParams
) -> Steps[tuple[list[Partial], str]]:
    """The candidates that the program keeps, and why the others are given up."""
    if len(grown) < 2 or width < 1:
        return grown, ""
    nodes = [partial.node for partial in grown]
    labels = (yield from kinds.labels(nodes)) if params.lambda_d else []
    program = _program(nodes, _shares(grown, width, params), labels, params).to_json()
    try:
        found = yield Compute(chosen_candidates, (program, params.node_limit))
    except PolicyFailed:
        found = chosen_candidates(program, 0) | {"note": "greedy: the solver failed"}
    notes = "; ".join(note for note in (found["note"], kinds.problem) if note)
    reason = "not in the cover that the program chose" + (f" ({notes})" if notes else "")
    return [grown[index] for index in found["chosen"]], reason


def _program(nodes: Sequence[Node], shares: Sequence[int], labels: list[int], params: EtsParams) -> SelectionProgram:
    places: dict[str, int] = {}
    branches: list[Node] = []
    for node in nodes:
        for above in node.path()[:-1]:
            if above.id not in places:
                places[above.id] = len(branches)
                branches.append(above)
    sizes = [node.output_tokens if params.node_cost == "tokens" else 1 for node in (*branches, *nodes)]
    costs = [params.lambda_b * size / max(1, sum(sizes)) for size in sizes]
    worths = [share / sum(shares) for share in shares]
    return SelectionProgram(
        branch_parents=[places[node.parent.id] if node.parent else -1 for node in branches],
        branch_costs=costs[: len(branches)],
        parents=[places[node.parent.id] for node in nodes if node.parent],
        gains=[worth - cost for worth, cost in zip(worths, costs[len(branches) :], strict=True)],
        clusters=labels,
        cluster_gain=params.lambda_d / len(set(labels)) if labels else 0.0,
    )
