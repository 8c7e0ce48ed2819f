"""Nothing a job can do makes it spend more than its caps: many random policies, engines, faults, caps, concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from orchestrator import Budget, Orchestrator
from orchestrator.actions import (
    Answer,
    Cancel,
    Commit,
    Conclude,
    Expand,
    Next,
    Propose,
    Release,
    Score,
    Start,
)
from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.errors import BudgetExhausted, EngineFailed, TtcError
from orchestrator.events import Event
from orchestrator.job import Result
from orchestrator.ledger import Ledger
from orchestrator.monitors import AnswerComplete, Repetition
from orchestrator.policy import PolicyContext, Query
from orchestrator.sampling import Sampling
from orchestrator.testing import Fault, FaultKind, Latency, ScriptedEngine, arithmetic, babble, choices, judge
from orchestrator.testing.virtual_time import VirtualClock, run_virtual
from orchestrator.tree import Node

NUM_RUNS = int(os.environ.get("TTC_SOAK_RUNS", "1500"))
RUNS_PER_LOOP = 50


def random_policy(query: Query, ctx: PolicyContext[Any]) -> Generator[Any, Any, Any]:
    """Buys at random, catches at random, returns at random."""
    rng = random.Random(int(ctx.rng.integers(2**32)))
    nodes: list[Node] = [query.root]
    streams: list[Any] = []

    def an_expand() -> Expand:
        chosen = [rng.choice(nodes) for _ in range(rng.randint(1, 3))]
        return Expand(
            chosen,
            num_samples=[rng.randint(0, 5) for _ in chosen],
            model=rng.choice(["small", "small", "large"]),
            max_tokens=rng.choice([None, 1, 7, 40, 300]),
            sampling=rng.choice([None, Sampling(temperature=0.0), Sampling(temperature=1.0)]),
            stop=rng.choice([(), ("\n\n",), ("=",)]),
            monitors=rng.choice([(), (AnswerComplete(),), (Repetition(),)]),
            forced=rng.choice(["", "\nWait", "So "]),
        )

    for _ in range(rng.randint(0, 9)):
        kind = rng.choice(["expand", "expand", "start", "next", "next", "cancel", "score", "free", "conclude", "fail"])
        try:
            if kind == "expand":
                nodes += yield an_expand()
            elif kind == "start":
                streams.append(
                    (yield Start(an_expand(), parallel=rng.randint(1, 6), order=rng.choice(["submission", "arrival"])))
                )
            elif kind == "next" and streams:
                node = yield Next(rng.choice(streams))
                nodes += [node] if node is not None else []
            elif kind == "cancel" and streams:
                yield Cancel(rng.choice(streams))
            elif kind == "score":
                yield Score(
                    [rng.choice(nodes) for _ in range(rng.randint(1, 4))], rng.choice(["generative", "half", "broken"])
                )
            elif kind == "free":
                yield rng.choice([Release(tuple(nodes[-2:])), Propose(Answer("7")), Commit(rng.choice(nodes))])
            elif kind == "conclude":
                nodes.append((yield Conclude(rng.choice(nodes))))
            elif kind == "fail" and rng.random() < 0.1:
                raise RuntimeError("the policy has a bug")
        except BudgetExhausted:
            if rng.random() < 0.5:
                raise
        except EngineFailed:
            if rng.random() < 0.5:
                raise
    return rng.choice([None, Answer(None), "42", rng.choice(nodes), Answer("7", rng.choice(nodes))])


def a_fault(rng: random.Random) -> Fault | None:
    if rng.random() < 0.75:
        return None
    kind = rng.choice([FaultKind.FAIL, FaultKind.FAIL, FaultKind.HANG, FaultKind.SLOW])
    return Fault(kind=kind, after_tokens=rng.choice([0, 1, 5, 33]), is_retryable=rng.random() < 0.7)


def an_engine(rng: random.Random, name: str) -> ScriptedEngine:
    script = rng.choice([arithmetic(), babble(), choices({"The answer is 1": 0.5, "no idea": 0.5}), judge(0.7)])
    price = rng.choice([0.0, 0.5, 30.0])
    return ScriptedEngine(
        script,
        name=name,
        latency=rng.choice([Latency(), Latency(prefill_s=0.05, token_s=0.02, jitter=0.5)]),
        faults=lambda _call, _request: a_fault(rng),
        cost=ModelCost(
            parameters=10**9,
            attention_width=4096,
            kv_width=1024,
            prices=TokenPrices(prompt_usd=price, output_usd=4 * price, cached_prompt_usd=price / 10),
        ),
        context_length=rng.choice([120, 400, 32768]),
        tokens_per_delta=rng.choice([1, 8, 32]),
        clock=VirtualClock(),
    )


def a_budget(rng: random.Random) -> Budget:
    """Caps that bind: each is there in two of five jobs, anywhere between too small for an answer and out of reach."""

    def maybe(lowest: float, highest: float) -> float | None:
        return math.exp(rng.uniform(math.log(lowest), math.log(highest))) if rng.random() < 0.4 else None

    def maybe_whole(lowest: int, highest: int) -> int | None:
        value = maybe(lowest, highest)
        return None if value is None else round(value)

    return Budget(
        max_output_tokens=maybe_whole(7, 4000),
        max_total_tokens=maybe_whole(60, 8000),
        max_model_calls=maybe_whole(1, 30),
        max_usd=maybe(1e-4, 0.5),
        max_flops=maybe(1e11, 1e14),
        max_seconds=rng.choice([3.0, 30.0, 0.4]),
    )


async def half(_: Any) -> float:
    return 0.5


async def broken(_: Any) -> float:
    raise ValueError("broken")


def check(result: Result, budget: Budget) -> None:
    usage = result.usage
    spent = {
        "max_output_tokens": usage.output_tokens,
        "max_total_tokens": usage.total_tokens,
        "max_model_calls": usage.model_calls,
        "max_usd": usage.usd,
        "max_flops": usage.flops,
    }
    for cap, value in spent.items():
        limit = getattr(budget, cap)
        assert limit is None or value <= limit, f"{cap}: spent {value} of {limit}"
    assert usage.overrun_tokens == 0
    assert result.answer.text is not None or isinstance(result.error, TtcError)
    result.tree.check_integrity()


async def one_loop(seed: int, seen: Counter[str]) -> None:
    rng = random.Random(seed)
    small, large = an_engine(rng, "small-model"), an_engine(rng, "large-model")
    shared = Ledger(Budget(max_output_tokens=rng.choice([200, 5000, 10**6])), name="tenant")
    results: list[tuple[Result, Budget]] = []

    async with Orchestrator(small, large=large, ledger=shared, clock=VirtualClock()) as ttc:
        for verifier in (half, broken):
            ttc.register_verifier(verifier.__name__, verifier)

        async def job(number: int) -> None:
            budget = a_budget(rng)
            last: list[Result] = []

            def watch(event: Event) -> None:
                if event.kind == "result":
                    last.append(event.data["result"])

            problem = f"What is {number} + 4 * 2?"
            with contextlib.suppress(TtcError):  # it is in the result, too
                await ttc.solve(problem, policy=random_policy, budget=budget, seed=number, on_event=watch)
            assert last, "every job ends with a result"
            results.append((last[0], budget))
            seen["jobs"] += 1
            seen["answered"] += last[0].answer.text is not None
            if last[0].error is not None:
                seen[f"ended with {last[0].error.code}"] += 1
            seen["limited by a cap"] += last[0].limited_by is not None

        async with asyncio.TaskGroup() as tasks:
            for number in range(RUNS_PER_LOOP):
                tasks.create_task(job(seed * RUNS_PER_LOOP + number))

    for result, budget in results:
        check(result, budget)
    shared.check_integrity()
    assert shared.reserved.to_json() == {}, "nothing stays reserved when all jobs are over"
    assert shared.spent.output_tokens == sum(result.usage.output_tokens for result, _ in results)
    assert shared.spent.total_tokens == sum(result.usage.total_tokens for result, _ in results)
    counted = [await engine.health() for engine in (small, large)]
    output = sum(engine.output_tokens for engine in counted)
    assert shared.spent.output_tokens >= output, "what an engine has done is never charged too low"
    if not any(result.usage.is_estimated for result, _ in results):
        seen["in loops where the ledger equals the engines' own counts"] += len(results)
        assert shared.spent.output_tokens == output
        prompt = sum(result.usage.prompt_tokens for result, _ in results)
        assert prompt == sum(engine.prompt_tokens for engine in counted)
    assert not small._live
    assert not large._live


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_job_spends_more_than_its_caps_whatever_policies_engines_and_faults_do() -> None:
    seen: Counter[str] = Counter()
    for seed in range(NUM_RUNS // RUNS_PER_LOOP):
        run_virtual(one_loop(seed, seen))
    print(", ".join(f"{count:,} {what}" for what, count in seen.items()), "(0 overspent)")
