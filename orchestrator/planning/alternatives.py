"""Plans beside the plan: with one type of GPU, and without routing by size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.planning.mix import Infeasible, Mix, MixProblem, RoleLoad, solve_mix


class Alternative(NamedTuple):
    """A plan beside the plan.

    Attributes:
        name: What it is.
        usd_per_hour: What it costs; None if it cannot be.
        reason: Why it cannot be.
        mix: What it consists of.
    """

    name: str
    usd_per_hour: float | None
    reason: str = ""
    mix: Mix | None = None


def single(problem: MixProblem, gpu: str, node_limit: int) -> Alternative:
    """With one type of GPU."""
    found = solve_mix(problem.only(gpu), node_limit=node_limit)
    if isinstance(found, Mix):
        return Alternative(gpu, found.usd_per_hour, mix=found)
    if found.is_undecided:
        return Alternative(gpu, None, f"nothing was found within {node_limit:,} nodes")
    if found.unserved:
        count = sum(len(places) for places in found.unserved.values())
        return Alternative(gpu, None, f"{count} bucket(s) of requests cannot be served within the objectives")
    return Alternative(gpu, None, f"needs {found.missing.get(gpu, 0):,} more than its cap")


def unrouted(problem: MixProblem, node_limit: int) -> Alternative:
    """Each replica gets the whole mix of sizes: seconds per request are the mean over buckets, or it cannot."""
    roles = {}
    for role, load in problem.roles.items():
        with np.errstate(divide="ignore"):
            seconds = np.where(load.capacities > 0, 1.0 / load.capacities, np.inf) @ (load.rates / load.rates.sum())
        blended = np.where(np.isfinite(seconds), 1.0 / np.maximum(seconds, 1e-300), 0.0)
        roles[role] = RoleLoad(load.rates.sum(keepdims=True), blended[:, None], load.least)
    slices = max(problem.slices, 64)
    found = solve_mix(MixProblem(problem.kinds, roles, problem.offers, problem.caps, slices), node_limit=node_limit)
    if isinstance(found, Infeasible):
        return Alternative("not routed by size", None, "no single kind of replica serves requests of all sizes")
    return Alternative("not routed by size", found.usd_per_hour, mix=found)
