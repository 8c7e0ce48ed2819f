"""Diverse verifier tree search: independent subtrees, each greedy in the reward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from orchestrator.policies.beam_search import BeamSearchParams
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.stepping import StepSearch
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.tree import Node


@policy("dvts", params=BeamSearchParams, source="Beeching et al., 2024, Scaling test-time compute with open models")
def dvts(query: Query, ctx: PolicyContext[BeamSearchParams]) -> Policy:
    """Divides the width among subtrees, each of which keeps only its best continuation at each level.

    Every `expansion` samples of the first step make a subtree (the last one gets what is left). At each level a
    subtree samples as many continuations of its best one, until the best has finished; then all of the subtree that
    have finished, here or on the way, have their vote. Subtrees do not compete, so that a lucky reward takes over its
    own subtree at most.
    """
    params = ctx.params
    search = StepSearch(query, params)
    sizes = [min(params.expansion, params.width - start) for start in range(0, params.width, params.expansion)]
    frontier, counts = [search.root], [params.width]
    for _ in range(params.max_depth):
        grown = yield from search.grow(frontier, counts)
        going_on = set((yield from search.harvest(grown)))
        heads: list[tuple[Partial, int]] = []
        for subtree, size in zip(_subtrees(grown, frontier, sizes), sizes, strict=True):
            eligible = [partial for partial in subtree if partial.node.is_final or partial in going_on]
            head = max(eligible, key=lambda partial: partial.score(params.aggregation), default=None)
            if head in going_on:
                heads.append((head, size))
        if not heads:
            break
        frontier, sizes = [head for head, _ in heads], [size for _, size in heads]
        counts = sizes
        yield from search.keep(frontier, "not the best of its subtree")
    return (yield from search.conclude())


def _subtrees(grown: Sequence[Partial], frontier: Sequence[Partial], sizes: Sequence[int]) -> list[list[Partial]]:
    """New trajectories by the subtree that they belong to."""
    if frontier[0].node.is_root:
        rest = iter(grown)
        return [list(islice(rest, size)) for size in sizes]
    members: dict[Node | None, list[Partial]] = {head.node: [] for head in frontier}
    for partial in grown:
        members[partial.node.parent].append(partial)
    return list(members.values())
