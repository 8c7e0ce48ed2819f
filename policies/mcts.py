"""Monte-Carlo tree search over steps, with UCT or PUCT."""

from __future__ import annotations

import math

from pydantic import Field

from orchestrator.policies.search.frontier import FrontierSearch
from orchestrator.policies.search.params import StepSearchParams
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.visits import FORMULAS, FormulaName, Visited
from orchestrator.policy import Policy, PolicyContext, Query, policy


class MctsParams(StepSearchParams):
    """Parameters of `mcts`."""

    num_simulations: int = Field(32, ge=1, le=100_000, description="Leaves expanded")
    expansion: int = Field(2, ge=1, le=1000, description="Steps sampled of each leaf that is expanded")
    formula: FormulaName = Field("uct", description="How a child is chosen on the way down")
    exploration: float = Field(
        math.sqrt(2), ge=0, le=1000, description="Weight c of the term that favours the unvisited"
    )
    rollouts: bool = Field(
        False, description="Write every new step on to its end; the score there is its value, and it may be the answer"
    )
    parallel: int = Field(1, ge=1, le=1024, description="Leaves expanded at the same time, apart by virtual loss")


@policy("mcts", params=MctsParams, source="Kocsis and Szepesvari, 2006; Silver et al., 2017 (PUCT); TreeQuest")
def mcts(query: Query, ctx: PolicyContext[MctsParams]) -> Policy:
    """Goes down to the most promising leaf, expands it, scores the new steps at once and backs their scores up.

    A child is chosen by mean + c P sqrt(ln n_parent / n) (``uct``) or mean + c P sqrt(n_parent) / (1 + n) (``puct``),
    where P is the softmax of the values among siblings. The value of a step is its own score, or with `rollouts` the
    score of the solution that a rollout of it ends with, which then has its vote. Finished trajectories and those that
    grew too long are not visited again, so every simulation buys new steps. If none has stated an answer in the end,
    the most visited path is written to its end at temperature 0.
    """
    params = ctx.params
    search = FrontierSearch(query, params)
    root = Visited(search.root)
    num_left = params.num_simulations
    while num_left and root.num_open:
        batch: list[Visited] = []
        while root.num_open and len(batch) < min(params.parallel, num_left):
            batch.append(root.begin(FORMULAS[params.formula], params.exploration))
        num_left -= len(batch)
        search.prefer(batch[0].partial)
        yield from search.secure(batch[0].partial)
        grown = yield from search.grow([leaf.partial for leaf in batch], params.expansion)
        going_on = yield from search.harvest(grown)
        ends: dict[Partial, Partial] = {}
        if params.rollouts and going_on:
            ends = yield from search.roll_out(going_on, params.sampling)
        for leaf in batch:
            found = [partial for partial in grown if partial.node.parent is leaf.partial.node]
            values = [ends.get(partial, partial).score(params.aggregation) for partial in found]
            leaf.end(found, values, going_on=set(going_on))
        if (ends or len(going_on) < len(grown)) and root.num_open:
            yield from search.keep([leaf.partial for leaf in root.open_leaves()], "all that goes on from it has ended")
    if root.num_open and search.best_so_far().text is None:
        yield from search.complete(root.most_visited_leaf().partial)
    return (yield from search.conclude())
