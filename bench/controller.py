"""What the controller costs on the scripted engine, which answers at once: ``python -m orchestrator.bench.controller``.

Every figure is taken through the SDK, so it includes the budget, the journal, the tree and the votes; what the scripted
engine itself takes is measured beside it. Writes `controller.json` and `controller.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from orchestrator import Answer, Budget, Orchestrator, PolicyContext, PolicyParams, Query, policy
from orchestrator.actions import Expand, Propose
from orchestrator.bench.report import PUBLISHED, cell, machine, machine_line, spread, table, write
from orchestrator.engine import GenerateRequest, GenerationEvent, Message, Prompt, SampleSpec
from orchestrator.policy import Policy
from orchestrator.sampling import Sampling
from orchestrator.testing import ScriptedEngine

PROBLEM = "What is 3 + 4 * 2?"
Cost = dict[str, dict[str, float]]
"""``wall_ms`` and ``cpu_ms`` (of the process, all threads), each with its median and range."""
REPLIES = [
    "First 4 * 2 = 8. Then 3 + 8 = 11. The answer is 11.",
    "Products come first, so 3 + 8, which makes 11. The answer is 11.",
    "3 + 4 = 7 and 7 * 2 = 14. The answer is 14.",
]
NUM_SAMPLES = 8
TARGET_MS = 3.0
"""Most that a request of self-consistency over 8 samples may take."""
BUDGET = Budget(max_output_tokens=100_000)

POLICIES: list[tuple[str, dict[str, Any]]] = [  # Any: parameters differ by policy
    ("single", {}),
    ("self_consistency", {"n": NUM_SAMPLES}),
    ("best_of_n", {"n": NUM_SAMPLES, "verifier": "majority"}),
    ("adaptive_consistency", {}),
    ("early_stopping", {}),
    ("budget_forcing", {}),
    ("cascade", {}),
]


class CountParams(PolicyParams):
    """How often a policy of this module acts."""

    count: int


@policy("bench_expands", params=CountParams, source="this benchmark")
def expands(query: Query, ctx: PolicyContext[CountParams]) -> Policy:
    """One sample after another."""
    for _ in range(ctx.params.count):
        yield Expand([query.root], num_samples=1)
    return Answer("11")


@policy("bench_proposals", params=CountParams, source="this benchmark")
def proposals(query: Query, ctx: PolicyContext[CountParams]) -> Policy:  # noqa: ARG001  # the protocol of policies
    """Actions that cost nothing."""
    for number in range(ctx.params.count):
        yield Propose(Answer(str(number)))
    return Answer("11")


def an_engine(name: str = "scripted") -> ScriptedEngine:
    """Says one of `REPLIES` at once."""
    return ScriptedEngine(REPLIES, name=name, keep_log=False)


class GatedEngine(ScriptedEngine):
    """Lets nobody through before ``num_requests`` are waiting, so that all jobs are in flight together."""

    def __init__(self, num_requests: int) -> None:
        super().__init__(REPLIES, keep_log=False)
        self._missing = num_requests
        self._open = asyncio.Event()
        self.when_full: Callable[[], None] = lambda: None

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """As `ScriptedEngine.generate`, once the gate is open."""
        self._missing -= 1
        if self._missing == 0:
            self.when_full()
            self._open.set()
        await self._open.wait()
        async for event in super().generate(request):
            yield event


async def timed_batches(
    work: Callable[[int], Coroutine[Any, Any, object]],  # Any: of no interest
    *,
    per_batch: int,
    num_batches: int,
) -> Cost:
    """Milliseconds per call of ``work``, over batches of calls one after another; the first batch is not kept."""
    wall_ms: list[float] = []
    cpu_ms: list[float] = []
    for batch in range(num_batches + 1):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(per_batch):
            await work(batch * per_batch + number)
        wall_ms.append((time.perf_counter() - wall) / per_batch * 1e3)
        cpu_ms.append((time.process_time() - cpu) / per_batch * 1e3)
    return {"wall_ms": spread(wall_ms[1:]), "cpu_ms": spread(cpu_ms[1:])}


class Bench:
    """The measurements; ``scale`` multiplies how often each is repeated."""

    def __init__(self, *, scale: float) -> None:
        self._per_batch = max(5, round(100 * scale))
        self._num_batches = max(3, round(9 * scale))

    async def _batches(self, work: Callable[[int], Coroutine[Any, Any, object]]) -> Cost:  # Any: see `timed_batches`
        return await timed_batches(work, per_batch=self._per_batch, num_batches=self._num_batches)

    async def request_ms(self, store: str | Path, name: Any, params: dict[str, Any]) -> Cost:
        """Milliseconds of one request. Any: a policy or its name; parameters differ by policy."""
        async with Orchestrator(an_engine(), large=an_engine("large"), store=store) as ttc:

            async def solve(number: int) -> None:
                await ttc.solve(PROBLEM, policy=name, params=params, seed=number, budget=BUDGET)

            return await self._batches(solve)

    async def engine_ms(self) -> Cost:
        """What the scripted engine alone takes for 8 samples."""
        engine = an_engine()
        prompt = Prompt((Message("user", PROBLEM),))

        async def generate(number: int) -> None:
            samples = tuple(SampleSpec(seed, 512) for seed in range(NUM_SAMPLES))
            request = GenerateRequest(
                request_id=str(number), prompt=prompt, samples=samples, sampling=Sampling(temperature=0.7)
            )
            async for _ in engine.generate(request):
                pass

        return await self._batches(generate)

    async def self_consistency(self) -> dict[str, Any]:  # Any: JSON values
        """The request the target is about, by store."""
        params = {"n": NUM_SAMPLES}
        figures = {"memory": await self.request_ms("memory:", "self_consistency", params)}
        with tempfile.TemporaryDirectory() as folder:
            figures["sqlite"] = await self.request_ms(Path(folder) / "jobs.sqlite", "self_consistency", params)
        return figures | {"engine_alone": await self.engine_ms()}

    async def marginal_us(self, name: Any, key: str, few: int, many: int) -> float:  # Any: see `request_ms`
        """Microseconds of CPU that one more costs: the slope between ``few`` and ``many``."""
        low = await self.request_ms("memory:", name, {key: few})
        high = await self.request_ms("memory:", name, {key: many})
        return (high["cpu_ms"]["median"] - low["cpu_ms"]["median"]) / (many - few) * 1e3

    async def by_policy(self) -> list[dict[str, Any]]:  # Any: JSON values
        """Cost per request, action and sample, of each policy."""
        rows: list[dict[str, Any]] = []  # Any: JSON values
        for name, params in POLICIES:
            async with Orchestrator(an_engine(), large=an_engine("large"), store="memory:") as ttc:
                result = await ttc.solve(PROBLEM, policy=name, params=params, budget=BUDGET)
                journal = await ttc.store.read(result.job_id)
            actions = sum(row.kind == "done" for row in journal)
            cost = await self.request_ms("memory:", name, params)
            samples = result.usage.model_calls
            rows.append(
                {
                    "policy": name,
                    "request": cost,
                    "actions": actions,
                    "samples": samples,
                    "journal_rows": len(journal),
                    "cpu_ms_per_action": cost["cpu_ms"]["median"] / actions,
                    "cpu_ms_per_sample": cost["cpu_ms"]["median"] / samples,
                }
            )
        return rows


def resident_mib() -> float:
    """Memory of this process that is in RAM now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def many_at_once(num_jobs: int, store: str | Path) -> dict[str, float]:
    """All jobs in flight in one process: none gets its first token before all have asked for it."""
    engine = GatedEngine(num_jobs)
    in_flight: list[float] = []
    engine.when_full = lambda: in_flight.append(resident_mib())
    async with Orchestrator(an_engine(), store="memory:") as warm:
        await warm.solve(PROBLEM, policy="self_consistency", params={"n": NUM_SAMPLES})
    async with Orchestrator(engine, store=store) as ttc:
        gc.collect()
        before = resident_mib()
        start, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(
                    ttc.solve(PROBLEM, policy="self_consistency", params={"n": NUM_SAMPLES}, seed=number, budget=BUDGET)
                )
                for number in range(num_jobs)
            ]
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        num_right = sum(task.result().answer.text == "11" for task in running)
        running.clear()
        gc.collect()
        after = resident_mib()
    return {
        "num_jobs": num_jobs,
        "num_answered_by_majority": num_right,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "jobs_per_s": num_jobs / wall_s,
        "rss_before_mib": before,
        "rss_all_in_flight_mib": in_flight[0],
        "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rss_after_mib": after,
        "in_flight_kib_per_job": (in_flight[0] - before) * 1024 / num_jobs,
    }


def in_own_process(*arguments: str) -> Any:  # Any: JSON values
    """A measurement of this module in a fresh process."""
    command = [sys.executable, "-m", "orchestrator.bench.controller", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own module
    return json.loads(done.stdout)


def import_s(repetitions: int) -> dict[str, dict[str, float]]:
    """Seconds that ``import orchestrator`` takes in a fresh process, on the wall and of its CPU."""
    program = (
        "import time; wall, cpu = time.perf_counter(), time.process_time(); import orchestrator; "
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(repetitions + 1)]  # noqa: S603  # our own
    wall, cpu = zip(*(map(float, run.stdout.split()) for run in runs[1:]), strict=True)
    return {"wall": spread(wall), "cpu": spread(cpu)}


async def measure(*, scale: float) -> dict[str, Any]:  # Any: JSON values
    """All measurements."""
    facts = machine()
    bench = Bench(scale=scale)
    return {
        "machine": facts,
        "self_consistency_8": await bench.self_consistency(),
        "target_ms": TARGET_MS,
        "marginal_cpu_us": {
            "sample": await bench.marginal_us("self_consistency", "n", NUM_SAMPLES, 8 * NUM_SAMPLES),
            "action_with_one_sample": await bench.marginal_us(expands, "count", 4, 32),
            "free_action": await bench.marginal_us(proposals, "count", 4, 32),
        },
        "by_policy": await bench.by_policy(),
        "many_at_once": {
            "memory": in_own_process("--many", "1000"),
            "sqlite": in_own_process("--many", "1000", "--durable"),
        },
        "import_s": import_s(max(3, round(9 * scale))),
    }


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    request, marginal, many = result["self_consistency_8"], result["marginal_cpu_us"], result["many_at_once"]
    lines = [
        "# Controller",
        "",
        "What the controller costs: milliseconds through the SDK on the scripted engine, which has no latency, with",
        "budget, journal, tree and votes. Median (range) of batches of requests one after another. CPU time",
        "is that of the whole process; where other work shares the machine it says more than wall-clock time.",
        "Made by `python -m orchestrator.bench.controller`.",
        "",
        *table(
            ("self-consistency of 8 samples", "ms per request", "CPU ms"),
            [
                (label, cell(request[key]["wall_ms"]), cell(request[key]["cpu_ms"]))
                for key, label in (
                    ("memory", "jobs in memory"),
                    ("sqlite", "jobs in SQLite"),
                    ("engine_alone", "the scripted engine alone, part of both"),
                )
            ],
        ),
        "",
        f"The target is at most {result['target_ms']:g} ms per request.",
        "",
        *table(
            ("one more", "CPU microseconds"),
            [
                ("sample of the same action", f"{marginal['sample']:.0f}"),
                ("action with one sample", f"{marginal['action_with_one_sample']:.0f}"),
                ("action that costs nothing", f"{marginal['free_action']:.0f}"),
            ],
        ),
        "",
        *table(
            ("policy", "ms per request", "CPU ms", "actions", "samples", "rows", "CPU ms/action", "CPU ms/sample"),
            [
                (
                    row["policy"],
                    cell(row["request"]["wall_ms"]),
                    cell(row["request"]["cpu_ms"]),
                    row["actions"],
                    row["samples"],
                    row["journal_rows"],
                    f"{row['cpu_ms_per_action']:.2f}",
                    f"{row['cpu_ms_per_sample']:.2f}",
                )
                for row in result["by_policy"]
            ],
        ),
        "",
        "All jobs at once in one process (self-consistency of 8; none gets a token before all have asked for one):",
        "",
        *table(
            (
                "store",
                "jobs",
                "wall s",
                "CPU s",
                "jobs/s",
                "MiB before",
                "all in flight",
                "peak",
                "after",
                "KiB per job in flight",
            ),
            [
                (
                    name,
                    row["num_jobs"],
                    f"{row['wall_s']:.2f}",
                    f"{row['cpu_s']:.2f}",
                    f"{row['jobs_per_s']:.0f}",
                    f"{row['rss_before_mib']:.0f}",
                    f"{row['rss_all_in_flight_mib']:.0f}",
                    f"{row['rss_peak_mib']:.0f}",
                    f"{row['rss_after_mib']:.0f}",
                    f"{row['in_flight_kib_per_job']:.0f}",
                )
                for name, row in many.items()
            ],
        ),
        "",
        f"`import orchestrator` in a fresh process: {cell(result['import_s']['wall'])} s, "
        f"{cell(result['import_s']['cpu'])} s of CPU.",
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="how often measurements are repeated")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    parser.add_argument("--many", type=int, help="only this: so many jobs at once, as JSON")
    parser.add_argument("--durable", action="store_true", help="with --many: keep them in SQLite")
    options = parser.parse_args()
    if options.many:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "jobs.sqlite" if options.durable else "memory:"
            print(json.dumps(asyncio.run(many_at_once(options.many, store))))
        return
    result = asyncio.run(measure(scale=options.scale))
    text = page(result)
    write(options.out, "controller", result, text)
    print(text)


if __name__ == "__main__":
    main()
