"""Calls of which one tree makes most: what affinity saves then, and what it costs in balance."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator import Orchestrator
from orchestrator.bench.affinity_cluster import GENERATOR, Replicas
from orchestrator.bench.problems import Problem
from orchestrator.engine import Engine, GenerateRequest, Message, Prefilled, Prompt, SampleSpec, Span, Tokenizes

_HOT_SHARE = 0.6
_TRUNK_TOKENS = 96
_TOKENS = 24
_NUM_TREES = 30
_IN_FLIGHT = 64
NUM_PROBLEMS = 1 + _NUM_TREES
_DEADLINE_S = 120.0


@dataclass(slots=True)
class Mix:
    """What came of one arm's calls of one round.

    Attributes:
        calls, prompt_tokens, cached_tokens: Totals.
        wall_s: For all of them, 64 at a time.
        cpu_s: CPU time of the replicas.
        imbalance: Of the replicas' loads; see `Loads`.
    """

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    imbalance: float = 0.0


async def run_mix(
    ttc: Orchestrator, replicas: Replicas, problems: Sequence[Problem], *, name: str, num_calls: int, seed: int
) -> Mix:
    """Sends the calls of one round; the arms of a round get the same ones, of trees of their own.

    Args:
        ttc: With the arm's models.
        replicas: The arm's.
        problems: At least `NUM_PROBLEMS`: one for each tree.
        name: Makes the trees' names.
        num_calls: How many.
        seed: Of the calls.
    """
    engine = ttc.fleet.models[GENERATOR]
    rng = random.Random(seed)
    seeds = [rng.randrange(1 << 32) for _ in range(num_calls)]
    picks = [0 if rng.random() < _HOT_SHARE else 1 + rng.randrange(_NUM_TREES) for _ in range(num_calls)]
    trunks = [_trunk(engine, problem) for problem in problems[: 1 + _NUM_TREES]]
    mix, slots = Mix(), asyncio.Semaphore(_IN_FLIGHT)

    async def call(number: int, tree: int) -> None:
        request = GenerateRequest(
            request_id=f"{name}/{number}",
            prompt=trunks[tree],
            samples=(SampleSpec(seeds[number], _TOKENS),),
            tree_id=f"{name}/tree-{tree}",
            deadline_s=_DEADLINE_S,
        )
        async with slots:
            read = await _sampled(engine, request)
        mix.calls += 1
        mix.prompt_tokens += read.prompt_tokens
        mix.cached_tokens += read.cached_tokens

    cpu, start = replicas.cpu_s(), time.perf_counter()
    async with replicas.watched() as loads, asyncio.TaskGroup() as tasks:
        for number, tree in enumerate(picks):
            tasks.create_task(call(number, tree))
    mix.wall_s, mix.cpu_s, mix.imbalance = time.perf_counter() - start, replicas.cpu_s() - cpu, loads.imbalance
    for tree in range(len(trunks)):
        await engine.release(f"{name}/tree-{tree}")
    return mix


def _trunk(engine: Engine, problem: Problem) -> Prompt:
    """The problem with the beginning of a reply, whatever that says: what all calls of a tree share."""
    assert isinstance(engine, Tokenizes)
    ids = engine.tokenize(problem.text * _TRUNK_TOKENS)[:_TRUNK_TOKENS]
    reply = Span(engine.detokenize(ids), ids, engine.describe().tokenizer)
    return Prompt(problem.messages or (Message("user", problem.text),), (reply,))


async def _sampled(engine: Engine, request: GenerateRequest) -> Prefilled:
    """What was read of the prompt, when the sample is done."""
    read = Prefilled(0)
    async for event in engine.generate(request):
        if isinstance(event, Prefilled):
            read = event
    return read
