"""What Ray costs, and what replicas bring: ``python -m orchestrator.bench.ray``.

On a real Ray cluster on this machine. The same requests go to a scripted engine in this process, to one hosted in a
process of its own, and to one on the cluster, reached from this process and, as users do, through another one. Then
requests that never cease go to 1, 2 and 4 replicas that work on 8 at once and take 50 ms a step; and the lab's `small`
solves the same problems in process and on the cluster. Writes `ray.json` and `ray.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator import Budget, Orchestrator
from orchestrator.bench.analysis.estimates import paired_difference
from orchestrator.bench.ray_nodes import Nodes
from orchestrator.bench.ray_page import page
from orchestrator.bench.report import PUBLISHED, machine, spread, write
from orchestrator.bench.sets import open_set
from orchestrator.config import RaySettings, Settings, read_settings
from orchestrator.engine import Delta, Engine, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.errors import EngineFailed, NoAnswer
from orchestrator.fleet_file import FleetFile
from orchestrator.models import open_model

Json = dict[str, Any]  # Any: JSON values

BABBLE, SLOTTED, LAB = "scripted:babble", "scripted:babble,token_s=0.05,slots=8", "lab:small"
REPLICAS = (1, 2, 4)
NUM_SLOTS, STEP_S = 8, 0.05
NAMESPACE = "bench"
_CALLS = 50
_STREAM_TOKENS = 1024
_LENGTH = 40
_WARM_S, _MEASURED_S = 4.0, 12.0
_QUEUED = 2
"""Requests that are offered for each slot."""


def _request(name: str, *, samples: int, tokens: int) -> GenerateRequest:
    specs = tuple(SampleSpec(seed, tokens) for seed in range(samples))
    return GenerateRequest(request_id=name, prompt=Prompt((Message("user", "Talk."),)), samples=specs)


def fleet() -> FleetFile:
    """All models that are measured; each takes no share of the cores it is said to have."""
    models: Json = {
        f"slots-{number}": {"model": SLOTTED, "replicas": number, "cpus": 0.1, "max_ongoing": 4 * NUM_SLOTS}
        for number in REPLICAS
    }
    models["babble"] = {"model": BABBLE, "cpus": 0.1}
    models["lab"] = {"model": LAB, "cpus": 0.1, "replicas": 2}
    return FleetFile.model_validate({"models": models, "cluster": {"ray": "local", "namespace": NAMESPACE}})


@asynccontextmanager
async def deployed(fleet_file: FleetFile, *names: str) -> AsyncIterator[None]:
    """The named models of the fleet run on the cluster that this process has joined, and no others."""
    from orchestrator.workers.ray.fleet import DeployedFleet

    part = fleet_file.model_copy(update={"models": {name: fleet_file.models[name] for name in names}})
    on_cluster = DeployedFleet(NAMESPACE)
    await asyncio.to_thread(on_cluster.deploy, part)
    try:
        yield
    finally:
        await asyncio.to_thread(on_cluster.remove)


def settings_for(address: str, *, isolated: bool) -> Settings:
    """The configuration by which models of the cluster are opened."""
    given = RaySettings(address=address, namespace=NAMESPACE, isolated=isolated, open_s=180)
    return read_settings().model_copy(update={"ray": given})


# What a call and a chunk cost


async def costs(engine: Engine) -> dict[str, float]:
    """Milliseconds, of one kind of work after the other."""
    await _tokens(engine, _request("warm", samples=1, tokens=1))
    begun = time.perf_counter()
    for number in range(_CALLS):
        await _tokens(engine, _request(f"one-{number}", samples=1, tokens=1))
    request_ms = 1e3 * (time.perf_counter() - begun) / _CALLS
    cpu, begun = time.process_time(), time.perf_counter()
    tokens, deltas, first_s = await _tokens(engine, _request("stream", samples=1, tokens=_STREAM_TOKENS))
    stream_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    begun = time.perf_counter()
    many, _, _ = await _tokens(engine, _request("eight", samples=8, tokens=_STREAM_TOKENS // 4))
    eight_s = time.perf_counter() - begun
    return {
        "request_ms": request_ms,
        "first_token_ms": 1e3 * first_s,
        "delta_ms": 1e3 * stream_s / deltas,
        "tokens_per_delta": tokens / deltas,
        "token_cpu_ms": 1e3 * cpu_s / tokens,
        "tokens_per_s": tokens / stream_s,
        "tokens_per_s_of_eight": many / eight_s,
    }


async def _tokens(engine: Engine, request: GenerateRequest) -> tuple[int, int, float]:
    """Tokens, deltas, seconds to the first."""
    tokens = deltas = 0
    begun, first_s = time.perf_counter(), 0.0
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            first_s = first_s or time.perf_counter() - begun
            tokens += event.num_tokens
            deltas += 1
    return tokens, deltas, first_s


async def overhead(address: str, rounds: int) -> Json:
    """The ways take turns."""
    there = settings_for(address, isolated=True)
    engines = {
        "in this process": await open_model(BABBLE, settings=there),
        "hosted": await open_model(f"hosted:{BABBLE}", settings=there),
        "on Ray, from this process": await open_model("ray:babble", settings=settings_for(address, isolated=False)),
        "on Ray, through another process": await open_model("ray:babble", settings=there),
    }
    found: dict[str, list[dict[str, float]]] = {way: [] for way in engines}
    try:
        for _ in range(rounds):
            for way, engine in engines.items():
                found[way].append(await costs(engine))
    finally:
        for engine in engines.values():
            await engine.aclose()
    return {way: {name: spread([one[name] for one in all_of]) for name in all_of[0]} for way, all_of in found.items()}


# What replicas bring


async def throughput(engine: Engine, *, replicas: int) -> Json:
    """Tokens a second while twice as many requests are offered as there are slots."""
    taken = 0
    is_over = False

    async def client(number: int) -> None:
        nonlocal taken
        for turn in range(10_000):
            if is_over:
                return
            request = _request(f"{number}-{turn}", samples=1, tokens=_LENGTH)
            with contextlib.suppress(EngineFailed):
                async for event in engine.generate(request):
                    if isinstance(event, Delta):
                        taken += event.num_tokens

    async with asyncio.TaskGroup() as tasks:
        for number in range(_QUEUED * NUM_SLOTS * replicas):
            tasks.create_task(client(number))
        await asyncio.sleep(_WARM_S)
        before, cpu, begun = taken, time.process_time(), time.perf_counter()
        await asyncio.sleep(_MEASURED_S)
        tokens, seconds = taken - before, time.perf_counter() - begun
        cpu_s = time.process_time() - cpu
        is_over = True
    ideal = replicas * NUM_SLOTS / STEP_S
    return {
        "replicas": replicas,
        "tokens_per_s": tokens / seconds,
        "share_of_ideal": tokens / seconds / ideal,
        "caller_cpu_share": cpu_s / seconds,
    }


async def scaling(address: str, fleet_file: FleetFile, rounds: int) -> Json:
    """One replica in process for comparison, then 1, 2 and 4 on the cluster."""
    here = settings_for(address, isolated=False)
    found: dict[str, list[Json]] = {}
    alone = await open_model(SLOTTED, settings=here)
    found["in this process"] = [await throughput(alone, replicas=1) for _ in range(rounds)]
    await alone.aclose()
    for number in REPLICAS:
        name = f"slots-{number}"
        async with deployed(fleet_file, name):
            engine = await open_model(f"ray:{name}", settings=here)
            await _all_up(engine, number)
            found[str(number)] = [await throughput(engine, replicas=number) for _ in range(rounds)]
            await engine.aclose()
    return {
        name: {kind: spread([one[kind] for one in all_of]) for kind in all_of[0] if kind != "replicas"}
        for name, all_of in found.items()
    }


async def _all_up(engine: Engine, number: int) -> None:
    """Waits until all replicas take part."""
    from orchestrator.workers.ray.engine import RayEngine

    assert isinstance(engine, RayEngine), "it was opened in this process"
    async with asyncio.timeout(180):
        while len(await engine.replicas()) < number:  # noqa: ASYNC110  # replicas have no events
            await asyncio.sleep(0.2)
    await asyncio.sleep(1.0)


# The same results


async def agreement(address: str, num_problems: int) -> Json:
    """Accuracy of the lab's `small` in process and on the cluster, problem by problem."""
    problems = open_set("expression", count=num_problems, seed=20261121)
    shares: dict[str, list[float]] = {}
    for way, text in {"in this process": LAB, "on Ray": "ray:lab"}.items():
        engine = await open_model(text, settings=settings_for(address, isolated=True))
        async with Orchestrator(engine, store="memory:") as ttc:
            shares[way] = [await _is_right(ttc, problems, problem) for problem in problems.problems]
        await engine.aclose()
    difference = paired_difference(shares["on Ray"], shares["in this process"])
    return {
        "problems": num_problems,
        "accuracy": {way: sum(values) / len(values) for way, values in shares.items()},
        "difference": difference.to_json(),
    }


async def _is_right(ttc: Orchestrator, problems: Any, problem: Any) -> float:  # Any: of `open_set`
    with contextlib.suppress(NoAnswer):
        result = await ttc.solve(
            problem.text,
            messages=problem.messages,
            policy="self_consistency",
            params={"n": "4"},
            answer=problems.answer_kind,
            budget=Budget(max_output_tokens=20_000),
            seed=1,
        )
        return float(problems.is_correct(problem, result.text))
    return 0.0


async def measure(*, rounds: int, problems: int) -> Json:
    """All measurements."""
    from orchestrator.workers.ray.joining import joined

    facts, fleet_file = machine(), fleet()
    with Nodes(4, 4, namespace=NAMESPACE) as nodes, joined(nodes.address, namespace=NAMESPACE):
        async with deployed(fleet_file, "babble"):
            found: Json = {"overhead": await overhead(nodes.address, rounds)}
        found["scaling"] = await scaling(nodes.address, fleet_file, rounds)
        if problems:
            async with deployed(fleet_file, "lab"):
                found["agreement"] = await agreement(nodes.address, problems)
    return {"machine": facts, "rounds": rounds, **found}


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--problems", type=int, default=60, help="for the comparison of accuracies; 0 for none")
    parser.add_argument("--out", type=Path, default=PUBLISHED, help="folder of the two files")
    options = parser.parse_args()
    result = asyncio.run(measure(rounds=options.rounds, problems=options.problems))
    write(options.out, "ray", result, page(result))


if __name__ == "__main__":
    main()
