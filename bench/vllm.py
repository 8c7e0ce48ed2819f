"""Measures vLLM's CPU build under the lab's models: ``make bench-vllm``, in the environment that holds vLLM.

What is counted is vLLM's own: hits of its prefix cache for samples of one prompt and for a tree search, guesses of a
draft model that were right, tokens sampled beyond a cut. Greedy output with guesses is held against that without.
Writes `vllm.json` and `vllm.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator import Orchestrator
from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.bench.lab.opening import open_lab
from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.sets import open_set
from orchestrator.bench.vllm_contract import versions
from orchestrator.config import Settings, VllmSettings
from orchestrator.engine import Delta, Engine, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.errors import ContextOverflow
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.testing.transcript import Transcript
from orchestrator.workers.vllm import open_engine
from orchestrator.workers.vllm.counters import SchedulerCounters
from orchestrator.workers.vllm.engine import VllmEngine

BLOCK = 32
"""Tokens of a KV block: the smallest that the CPU build has."""
SEARCHES: Mapping[str, Mapping[str, Any]] = {"best_of_n": {"n": 16}, "rebase": {"width": 16}}  # Any: parameters
SPECULATIONS: Mapping[str, Mapping[str, Any] | None] = {
    "none": None,
    "draft model, 3 tokens": {"method": "draft_model", "model": str(WEIGHTS / "draft"), "num_tokens": 3},
    "n-gram, 3 tokens": {"method": "ngram", "num_tokens": 3, "options": {"prompt_lookup_max": 3}},
}
_SET = "expression@6"


@asynccontextmanager
async def opened(**changes: Any) -> AsyncIterator[VllmEngine]:  # Any: fields of VllmSettings
    """The lab's `large` in vLLM, on one thread."""
    given = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 0.2, "block_size": BLOCK, "max_num_seqs": 32}
    settings = VllmSettings(**{**given, "cpu_cores": "nobind", **changes})
    engine = await open_engine(str(WEIGHTS / "large"), settings)
    try:
        yield engine
    finally:
        await engine.aclose()


def request(name: str, prompt: Prompt, *max_tokens: int, **fields: Any) -> GenerateRequest:  # Any: of GenerateRequest
    """One sample for each limit."""
    samples = tuple(SampleSpec(seed, limit) for seed, limit in enumerate(max_tokens))
    return GenerateRequest(request_id=name, prompt=prompt, samples=samples, **fields)


def since(engine: VllmEngine, before: SchedulerCounters) -> dict[str, float]:
    """What vLLM's scheduler has counted since."""
    after = asdict(engine.core.counters)
    return {
        name: after[name] - value
        for name, value in asdict(before).items()
        if name
        in {"steps", "prefix_queries", "prefix_hits", "generated_tokens", "drafts", "draft_tokens", "accepted_tokens"}
    }


def long_prompts(problems: ProblemSet) -> list[Prompt]:
    """Prompts of several blocks: three problems each."""
    texts = [problem.text for problem in problems.problems]
    threes = [" ".join(texts[place : place + 3]) for place in range(0, len(texts) - 2, 3)]
    return [Prompt((Message("user", text),)) for text in threes]


async def samples(engine: VllmEngine, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:  # Any: JSON values
    """Several samples of each prompt, which nobody has asked before."""
    found = []
    for count in (1, 4, 16):
        before = replace(engine.core.counters)
        for place, prompt in enumerate(prompts):
            asked = request(f"n-{count}-{place}", prompt, *[8] * count, cache_salt=f"samples of {count}")
            await Transcript.of(engine, asked)
        counted = since(engine, before)
        found.append({"samples": count, "prompts": len(prompts), **counted})
    return found


async def searches(engine: VllmEngine, problems: ProblemSet) -> list[dict[str, Any]]:  # Any: JSON values
    """Problems solved by each policy, with the lab's reward model in the embedded engine as the verifier."""
    judge = await open_lab("prm", Settings())
    found = []
    try:
        for policy, params in SEARCHES.items():
            before, health = replace(engine.core.counters), await engine.health()
            async with Orchestrator(engine, roles={"verifier": judge}) as ttc:
                solved = [await _is_solved(ttc, problems, problem, policy, params) for problem in problems.problems]
            after = await engine.health()
            found.append(
                {
                    "policy": policy,
                    "params": dict(params),
                    "problems": len(solved),
                    "solved": sum(solved),
                    "output_tokens": after.output_tokens - health.output_tokens,
                    **since(engine, before),
                }
            )
    finally:
        await judge.aclose()
    return found


async def _is_solved(
    ttc: Orchestrator,
    problems: ProblemSet,
    problem: Problem,
    policy: str,
    params: Mapping[str, Any],  # Any: parameters of policies
) -> bool:
    try:
        result = await ttc.solve(
            problem.text, messages=problem.messages, policy=policy, params=params, answer=problems.answer_kind, seed=1
        )
    except ContextOverflow:
        return False  # a solution that is too long for the reward model
    return problems.is_correct(problem, result.text)


async def cuts(engine: VllmEngine, prompts: Sequence[Prompt]) -> dict[str, Any]:  # Any: JSON values
    """Requests cancelled at their first delta: what vLLM sampled that was not delivered, and what it still holds."""
    before, delivered = replace(engine.core.counters), 0
    for place, prompt in enumerate(prompts):
        asked = request(f"cut-{place}", prompt, *[150] * 8, sampling=Sampling(temperature=2.0))
        async for event in engine.generate(asked):
            if isinstance(event, Delta):
                delivered += event.num_tokens
                engine.cancel(asked.request_id)
    await Transcript.of(engine, request("after", prompts[0], 1))
    counted = since(engine, before)
    return {
        "requests": len(prompts),
        "samples": 8 * len(prompts),
        "delivered_tokens": delivered + 1,
        "sampled_tokens": counted["generated_tokens"],
        "unfinished_requests": engine.core.num_unfinished,
    }


async def writing(engine: Engine, prompts: Sequence[Prompt]) -> list[tuple[int, ...] | None]:
    """Ids of greedy replies, one after the other."""
    asked = [request(f"write-{place}", prompt, 150, sampling=GREEDY) for place, prompt in enumerate(prompts)]
    return [(await Transcript.of(engine, own)).only.token_ids for own in asked]


async def measure(count: int) -> dict[str, Any]:  # Any: JSON values
    """All of it; each way to guess is an engine of its own."""
    facts, problems = machine(), open_set(_SET, count=count, seed=5)
    prompts = [Prompt((Message("user", problem.text),)) for problem in problems.problems]
    speculation: list[dict[str, Any]] = []  # Any: JSON values
    result: dict[str, Any] = {"machine": facts, "versions": versions(), "set": _SET, "block_tokens": BLOCK}
    plain: list[tuple[int, ...] | None] = []
    for name, wanted in SPECULATIONS.items():
        async with opened(speculation=wanted) as engine:
            if wanted is None:
                result["samples"] = await samples(engine, long_prompts(problems))
                result["cuts"] = await cuts(engine, prompts[:8])
                result["searches"] = await searches(engine, problems)
            before = replace(engine.core.counters)
            replies = await writing(engine, prompts)
            plain = plain or replies
            speculation.append(
                {
                    "speculation": name,
                    "replies": len(replies),
                    "equal_to_plain": sum(own == other for own, other in zip(replies, plain, strict=True)),
                    "tokens_per_draft": engine.core.counters.tokens_per_draft(),
                    **since(engine, before),
                }
            )
    return {**result, "speculation": speculation}


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The page."""
    cut = result["cuts"]
    plain_steps = result["speculation"][0]["steps"]
    lines = [
        "# vLLM with the lab's models",
        "",
        "Written by `make bench-vllm`. vLLM's CPU build runs the lab's `large` (0.9 million parameters) on one thread;",
        "such a model shows what is counted, not how fast vLLM is. Counts are those of vLLM's scheduler.",
        "",
        machine_line(result["machine"]),
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in result["versions"].items()) + ".",
        "",
        f"## Prefixes (`{result['set']}`, blocks of {result['block_tokens']} tokens)",
        "",
        "Samples of one prompt are requests of their own to vLLM; each prompt here is three problems. Only full blocks",
        "are shared, and the last token is always computed.",
        "",
        *table(
            ["samples of a prompt", "prompts", "prompt tokens asked for", "from the cache", "share"],
            (
                [row["samples"], row["prompts"], row["prefix_queries"], row["prefix_hits"], _share(row)]
                for row in result["samples"]
            ),
        ),
        "",
        "Searches, with the lab's reward model in the embedded engine as the verifier. A problem alone is shorter than",
        "a block, so samples of it share nothing; a search shares the steps that it continues:",
        "",
        *table(
            ["policy", "problems", "solved", "tokens written", "prompt tokens asked for", "from the cache", "share"],
            (
                [
                    f"`{row['policy']}` {row['params']}",
                    row["problems"],
                    row["solved"],
                    row["output_tokens"],
                    row["prefix_queries"],
                    row["prefix_hits"],
                    _share(row),
                ]
                for row in result["searches"]
            ),
        ),
        "",
        "## Cuts",
        "",
        f"{cut['requests']} requests of 8 samples were cancelled at their first delta. vLLM sampled "
        f"{cut['sampled_tokens']} tokens, of which {cut['delivered_tokens']} were delivered and counted; "
        f"{cut['unfinished_requests']} requests were left.",
        "",
        "## Speculation",
        "",
        "Greedy replies, one at a time. Steps are those of the target; by how much a step with guesses takes longer",
        "depends on models and machine, and is not measured here.",
        "",
        *table(
            ["speculation", "replies", "equal to plain", "steps", "tokens a step brought", "steps / plain"],
            (
                [
                    row["speculation"],
                    row["replies"],
                    row["equal_to_plain"],
                    row["steps"],
                    "-" if row["tokens_per_draft"] is None else f"{row['tokens_per_draft']:.2f}",
                    f"{row['steps'] / plain_steps:.2f}",
                ]
                for row in result["speculation"]
            ),
        ),
        "",
    ]
    return "\n".join(lines)


def _share(row: Mapping[str, Any]) -> str:  # Any: JSON values
    return f"{row['prefix_hits'] / row['prefix_queries']:.0%}" if row["prefix_queries"] else "-"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=12)
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = asyncio.run(measure(options.problems))
    text = page(result)
    write(options.out, "vllm", result, text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
