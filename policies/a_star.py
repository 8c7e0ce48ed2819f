"""A*-decoding: best-first search over steps whose costs are what the reward lacks and what it has lost on the way."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from orchestrator.policies.search.frontier import FrontierSearch, distinct
from orchestrator.policies.search.params import Selection, StepSearchParams
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.stepping import Steps
from orchestrator.policies.selection import Scored
from orchestrator.policy import Policy, PolicyContext, Query, policy

EdgeCost = Literal["drop", "consistent"]


class AStarParams(StepSearchParams):
    """Parameters of `a_star`."""

    expansion: int = Field(4, ge=1, le=1000, description="Steps sampled of each state that is expanded")
    max_expansions: int = Field(64, ge=1, le=100_000, description="Most states expanded")
    max_frontier: int = Field(
        64, ge=1, le=100_000, description="Most open states; those of the highest cost are let go"
    )
    edge_cost: EdgeCost = Field(
        "drop", description="A step costs the reward it loses, or (consistent) the reward it gains"
    )
    num_answers: int = Field(1, ge=1, le=1000, description="Stop when so many answers have been the best open state")
    selection: Selection = Field("best", description="How one of several answers is chosen")


@dataclass(frozen=True, slots=True, order=True)
class State:
    """A trajectory on the frontier; the smallest is expanded next: least f, then the deepest, then the oldest.

    Attributes:
        f: g + h, what a solution through it is taken to cost.
        minus_depth: Its steps, negative.
        age: In order of creation.
        g: What its steps have cost.
        h: What it still lacks: 1 - reward.
        partial: The trajectory.
    """

    f: float
    minus_depth: int
    age: int
    g: float = field(compare=False)
    h: float = field(compare=False)
    partial: Partial = field(compare=False)

    @property
    def is_goal(self) -> bool:
        """Whether it states an answer."""
        return self.partial.node.is_final


class Frontier:
    """The open states of one search."""

    def __init__(self, root: Partial, params: AStarParams) -> None:
        self._params = params
        self._num_created = 0
        self.states: list[State] = []
        self.add(None, root)

    def add(self, before: State | None, partial: Partial) -> State:
        """Opens the state that a step leads to from the state ``before``; None for the start."""
        h = 1 - partial.score(self._params.aggregation)
        g = 0.0 if before is None else before.g + edge_cost(before.h, h, self._params.edge_cost)
        state = State(g + h, -len(partial.rewards), self._num_created, g, h, partial)
        heapq.heappush(self.states, state)
        self._num_created += 1
        return state

    def pop(self) -> State:
        """Takes the best state."""
        return heapq.heappop(self.states)

    def trim(self) -> bool:
        """Lets the worst states go that are too many; whether there were any."""
        has_too_many = len(self.states) > self._params.max_frontier
        if has_too_many:
            self.states = heapq.nsmallest(self._params.max_frontier, self.states)  # sorted, so a heap
        return has_too_many


def edge_cost(h: float, h_after: float, how: EdgeCost) -> float:
    """What a step costs that changes h from ``h`` to ``h_after``: by how much h rises, or (consistent) falls."""
    return max(0.0, h_after - h if how == "drop" else h - h_after)


@policy("a_star", params=AStarParams, source="Chatziveroglou, 2025, arXiv:2505.13672")
def a_star(query: Query, ctx: PolicyContext[AStarParams]) -> Policy:
    """Expands the partial solution of the least f = g + h, and answers with the first finished one that is the best.

    h(s) = 1 - reward(s), and 0 for the empty solution. g adds up what steps cost: max(0, h(s') - h(s)), so that a path
    pays for every loss of reward on it (``drop``), or max(0, h(s) - h(s')), with which h is consistent and f never
    falls along a path (``consistent``). When no more states may be expanded, the selected finished answer is returned;
    if there is none, the best open state is written to its end at temperature 0.
    """
    params = ctx.params
    search = FrontierSearch(query, params)
    frontier = Frontier(search.root, params)
    goals = yield from _best_goals(search, frontier, params)
    if len(goals) == params.num_answers:
        return search.choice(Scored(goal.node, goal.score(params.aggregation)) for goal in goals)
    if frontier.states and search.best_so_far().text is None:
        yield from search.complete(frontier.states[0].partial)
    return (yield from search.conclude())


def _best_goals(search: FrontierSearch, frontier: Frontier, params: AStarParams) -> Steps[list[Partial]]:
    """Finished trajectories, each the best open state in its turn; fewer than wanted if the search ended before."""
    goals: list[Partial] = []
    num_expanded = 0
    while frontier.states and len(goals) < params.num_answers:
        best = frontier.states[0]
        if best.is_goal:
            goals.append(frontier.pop().partial)
            continue
        if num_expanded == params.max_expansions:
            break
        num_expanded += 1
        num_given_up = len(search.given_up)
        search.prefer(best.partial)
        yield from search.secure(best.partial)
        grown = distinct((yield from search.grow([best.partial], params.expansion)))
        going_on = yield from search.harvest(grown)
        frontier.pop()
        for partial in grown:
            if partial in going_on or (partial.node.is_final and partial.node.answer_class is not None):
                frontier.add(best, partial)
        reason = "it grew too long" if len(search.given_up) > num_given_up else ""
        if frontier.trim():
            reason = f"{params.max_frontier} open states have a lower cost"
        if reason:
            yield from search.keep([state.partial for state in frontier.states], reason)
    return goals
