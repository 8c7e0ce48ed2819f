"""Particle filtering and particle Gibbs: after each step, trajectories are redrawn in proportion to their odds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from orchestrator.policies.search.params import StepSearchParams
from orchestrator.policies.search.partial import Partial
from orchestrator.policies.search.resampling import Resampling, drawn_copies, effective_sample_size, reward_weights
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.policy import Policy, PolicyContext, Query, policy


class ParticleFilteringParams(StepSearchParams):
    """Parameters of `particle_filtering`."""

    width: int = Field(16, ge=1, le=4096, description="Particles; one that has finished keeps its place")
    weight_temperature: float = Field(
        1.0, gt=0, le=100, description="Of the softmax over logits of rewards; low favours the best"
    )
    resampling: Resampling = Field(
        "multinomial", description="Independent draws, or systematic ones, which add less noise"
    )
    iterations: int = Field(
        1, ge=1, le=100, description="Passes of the filter; each after the first keeps a particle of the one before"
    )


@policy("particle_filtering", params=ParticleFilteringParams, source="Puri et al., 2025, arXiv:2502.01618")
def particle_filtering(query: Query, ctx: PolicyContext[ParticleFilteringParams]) -> Policy:
    """Redraws its trajectories after each step, in proportion to exp(logit(reward) / weight_temperature).

    All particles take a step, then as many are drawn from them with replacement, finished ones included. One that is
    drawn k times is a node that is continued k times: what the copies share is not paid for again. A pass ends when
    all have finished.

    With several passes this is particle Gibbs. A particle of the last population, drawn by its weight, is the
    reference of the next pass: at each level its steps so far are in the population and may be drawn like any other,
    but they are never replaced.

    Each trajectory that has finished in any pass votes once, also if later draws have dropped it; copies are no
    further evidence.
    """
    params = ctx.params
    search = StepSearch(query, params)
    reference: Partial | None = None
    for num_left in reversed(range(params.iterations)):
        population = yield from _filtered(search, ctx, reference)
        if not population or not num_left:
            break
        reference = population[int(ctx.rng.choice(len(population), p=_weights(population, params)))]
        yield from search.keep([reference], "not drawn as the reference of the next pass")
    return (yield from search.conclude())


def _filtered(
    search: StepSearch, ctx: PolicyContext[ParticleFilteringParams], reference: Partial | None
) -> Steps[list[Partial]]:
    """One pass: the particles once all of them have finished, and the reference."""
    params = ctx.params
    always = [] if reference is None else [reference]
    free = [search.root] * (params.width - len(always))
    for depth in range(1, params.max_depth + 1):
        copies = Counter(particle for particle in free if not particle.node.is_final)
        grown = yield from search.grow(list(copies), list(copies.values()))
        going_on = yield from search.harvest(grown)
        free = [particle for particle in (*free, *grown) if particle.node.is_final] + going_on
        if not going_on:
            break
        population = free + [particle.until(depth) for particle in always]
        weights = _weights(population, params)
        draws = drawn_copies(weights, params.width - len(always), ctx.rng, params.resampling)
        free = [particle for particle, count in zip(population, draws, strict=True) for _ in range(count)]
        needed = dict.fromkeys(drawn for drawn in free if params.iterations > 1 or not drawn.node.is_final)
        size = effective_sample_size(weights)
        reason = f"not drawn again (effective sample size {size:.1f} of {len(population)})"
        yield from search.keep([*needed, *always], reason)
    return free + always


def _weights(population: Sequence[Partial], params: ParticleFilteringParams) -> list[float]:
    return reward_weights([particle.score(params.aggregation) for particle in population], params.weight_temperature)
