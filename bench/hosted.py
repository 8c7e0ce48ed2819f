"""What hosting an engine in a process of its own costs and saves: ``python -m orchestrator.bench.hosted``.

The same requests go to an engine in this process and to one that is hosted: a scripted engine, whose time is nearly
all ours, and the lab's `small`, beside an event loop that is idle and one that is busy. Writes `hosted.json` and
`hosted.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.bench.report import PUBLISHED, cell, machine, machine_line, spread, table, write
from orchestrator.config import read_settings
from orchestrator.engine import Delta, Engine, GenerateRequest, Message, Prompt, SampleSpec, Tokenizes
from orchestrator.errors import EngineFailed
from orchestrator.models import open_model
from orchestrator.workers.hosted import HostedEngine

SCRIPTED, MODEL = "scripted:babble", "lab:small"
WAYS = {"in this process": "", "hosted": "hosted:"}
_QUESTION = "Use 2, 3, 7 to make 13."
_CALLS = 200
_STREAM_TOKENS = 4096
_MODEL_TOKENS = 256
_BUSY_S = 0.002
"""A busy event loop computes for so long, lets others in, and computes again."""


def _request(name: str, *, samples: int, tokens: int, text: str = _QUESTION) -> GenerateRequest:
    specs = tuple(SampleSpec(seed, tokens) for seed in range(samples))
    return GenerateRequest(request_id=name, prompt=Prompt((Message("user", text),)), samples=specs)


async def _stream(engine: Engine, request: GenerateRequest) -> tuple[int, int, float, float]:
    """Tokens, deltas, seconds, and seconds to the first delta."""
    tokens = deltas = 0
    start = time.perf_counter()
    first = 0.0
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            first = first or time.perf_counter() - start
            tokens += event.num_tokens
            deltas += 1
    return tokens, deltas, time.perf_counter() - start, first


class Costs(NamedTuple):
    """Of one piece of work: milliseconds waited for, and of CPU time in this process and in the host."""

    wall_ms: float
    here_ms: float
    host_ms: float


async def _costs(engine: Engine, work: Callable[[], Awaitable[int]]) -> Costs:
    """Of each of the pieces of which ``work`` returns the number."""
    pid = engine.host_pid if isinstance(engine, HostedEngine) else None
    start, here, host = time.perf_counter(), time.process_time(), _host_cpu_s(pid)
    count = await work()
    return Costs(
        1e3 * (time.perf_counter() - start) / count,
        1e3 * (time.process_time() - here) / count,
        1e3 * (_host_cpu_s(pid) - host) / count,
    )


def _host_cpu_s(pid: int | None) -> float:
    """CPU time of all threads of a process (Linux; proc(5), schedstat)."""
    tasks = [] if pid is None else list(Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


async def scripted_costs(engine: Engine) -> dict[str, Costs]:
    """One round on a scripted engine."""
    assert isinstance(engine, Tokenizes)

    async def requests() -> int:
        for number in range(_CALLS):
            await _stream(engine, _request(f"short-{number}", samples=1, tokens=1))
        return _CALLS

    async def calls() -> int:
        for _ in range(_CALLS):
            await engine.health()
        return _CALLS

    async def counts() -> int:
        for number in range(_CALLS):
            engine.count_prompt_tokens(Prompt((Message("user", f"{_QUESTION} {time.perf_counter()} {number}"),)))
        return _CALLS

    async def deltas() -> int:
        return (await _stream(engine, _request("long", samples=8, tokens=_STREAM_TOKENS)))[1]

    works = {"request": requests, "call": calls, "count": counts, "delta": deltas}
    return {name: await _costs(engine, work) for name, work in works.items()}


async def model_speed(engine: Engine, *, samples: int) -> dict[str, float]:
    """Of one round: tokens a second over all samples, and milliseconds to the first delta."""
    tokens, _, seconds, first = await _stream(
        engine, _request(f"speed-{time.perf_counter()}", samples=samples, tokens=_MODEL_TOKENS)
    )
    return {"tokens_per_s": tokens / seconds, "first_delta_ms": 1e3 * first}


@asynccontextmanager
async def busy(is_busy: bool) -> Any:  # Any: an asynchronous context
    """An event loop that has other work all the time, or none."""
    if not is_busy:
        yield
        return

    async def compute() -> None:
        while True:
            until = time.perf_counter() + _BUSY_S
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(compute())
        yield
        task.cancel()


async def measure(rounds: int) -> dict[str, Any]:  # Any: JSON values
    """All measurements; the two ways take turns."""
    facts, settings = machine(), read_settings()
    scripted: dict[str, list[dict[str, Costs]]] = {way: [] for way in WAYS}
    model: dict[str, dict[str, list[dict[str, float]]]] = {}
    engines = {way: await open_model(prefix + SCRIPTED, settings=settings) for way, prefix in WAYS.items()}
    for _ in range(rounds):
        for way, engine in engines.items():
            scripted[way].append(await scripted_costs(engine))
    await _close(engines)
    engines = {way: await open_model(prefix + MODEL, settings=settings) for way, prefix in WAYS.items()}
    for engine in engines.values():
        await model_speed(engine, samples=1)
    for _ in range(rounds):
        for is_busy in (False, True):
            for samples in (1, 8):
                name = f"{samples} at once, event loop {'busy' if is_busy else 'idle'}"
                for way, engine in engines.items():
                    async with busy(is_busy):
                        found = await model_speed(engine, samples=samples)
                    model.setdefault(name, {}).setdefault(way, []).append(found)
    hosted = engines["hosted"]
    assert isinstance(hosted, HostedEngine)
    rss_mib = _rss_mib(hosted.host_pid)
    restart_s = [await _restart_s(hosted) for _ in range(rounds)]
    await _close(engines)
    return {
        "machine": facts,
        "rounds": rounds,
        "scripted": {way: _cost_spreads(found) for way, found in scripted.items()},
        "model": {name: {way: _spreads(found) for way, found in ways.items()} for name, ways in model.items()},
        "host_rss_mib": rss_mib,
        "restart_s": spread(restart_s),
    }


async def _restart_s(engine: HostedEngine) -> float:
    """Seconds from the death of a host to the first token of the next one."""
    assert engine.host_pid is not None
    os.kill(engine.host_pid, signal.SIGKILL)
    start = time.perf_counter()
    while True:
        try:
            await _stream(engine, _request("after", samples=1, tokens=1))
            return time.perf_counter() - start
        except EngineFailed:
            await asyncio.sleep(0.005)


async def _close(engines: dict[str, Engine]) -> None:
    for engine in engines.values():
        await engine.aclose()


def _rss_mib(pid: int | None) -> float | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * 4096 / 2**20


def _cost_spreads(found: list[dict[str, Costs]]) -> dict[str, dict[str, dict[str, float]]]:
    kinds = Costs._fields
    return {name: {kind: spread([getattr(one[name], kind) for one in found]) for kind in kinds} for name in found[0]}


def _spreads(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([one[name] for one in found]) for name in found[0]}


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    scripted, model = result["scripted"], result["model"]
    names = {
        "request": "a request of one token",
        "call": "a call without work (health)",
        "count": "counting a prompt that is new",
        "delta": "a delta of a stream of 8 samples",
    }
    gains = [
        found["hosted"]["tokens_per_s"]["median"] / found["in this process"]["tokens_per_s"]["median"]
        for name, found in model.items()
        if name.endswith("busy")
    ]
    columns = (("in this process", "here_ms"), ("hosted", "here_ms"), ("hosted", "host_ms"), ("hosted", "wall_ms"))
    lines = [
        "# Hosted engines",
        "",
        "What it costs, and what it saves, to host an engine in a process of its own. Median (least to most) of",
        f"{result['rounds']} rounds in which the two took turns. Made by `python -m orchestrator.bench.hosted`.",
        "",
        f"Milliseconds of CPU time with a scripted engine (`{SCRIPTED}`), whose own part is in all columns but the",
        "second (deltas hold 12 tokens where it is hosted, else 32), and the time that was waited for:",
        "",
        *table(
            ("", "in this process", "hosted: this process", "hosted: the host", "hosted: waited for"),
            [(text, *(cell(scripted[way][name][kind], 3) for way, kind in columns)) for name, text in names.items()],
        ),
        "",
        f"Tokens a second of `{MODEL}`, all samples together; a busy event loop computes {1e3 * _BUSY_S:g} ms at a",
        "time:",
        "",
        *table(
            ("", *(f"{way}{what}" for way in WAYS for what in (", tokens/s", ", first delta, ms"))),
            [
                (name, *(cell(found[way][value], 1) for way in WAYS for value in ("tokens_per_s", "first_delta_ms")))
                for name, found in model.items()
            ],
        ),
        "",
        f"Beside a busy event loop the hosted model is {min(gains):.1f} to {max(gains):.1f} times as fast. Its host",
        f"takes {result['host_rss_mib']:.0f} MiB; from its death to the first token of the next one it takes",
        f"{cell(result['restart_s'])} s.",
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    result = asyncio.run(measure(options.rounds))
    text = page(result)
    write(options.out, "hosted", result, text)
    print(text)


if __name__ == "__main__":
    main()
