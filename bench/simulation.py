"""Is the simulation right, and how far does it go: ``python -m orchestrator.bench.simulation``.

Constants are fitted to jobs that a real system did one at a time. Then the simulation predicts throughput and the 95th
percentile of job time at three loads that were not fitted: low, near saturation and above it. Two systems behind
the real controller: a scripted engine of 8 slots, 50 ms a step (in virtual time, which no other process disturbs,
and in real time), and the lab's `small` in the embedded engine.
Real policies in virtual time are held against their shapes, and thousands of replicas are simulated to see what that
takes. Writes `simulation.json` and `simulation.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import Orchestrator
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.sets import open_set
from orchestrator.bench.slotted_engine import SlottedEngine
from orchestrator.clock import SystemClock
from orchestrator.config import read_settings
from orchestrator.engine import (
    Engine,
    EngineHealth,
    Finished,
    GenerateRequest,
    GenerationEvent,
    Message,
    ModelDescription,
    Prefilled,
    Prompt,
    Tokenizes,
)
from orchestrator.models import open_model
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape, presets
from orchestrator.planning.simulation.arrivals import Given, Mix, Poisson
from orchestrator.planning.simulation.calibration import Constants, LoneJob, calibrated
from orchestrator.planning.simulation.controllers import ControllerSpec
from orchestrator.planning.simulation.experiment import Outcome, Window, saturation_rate, simulate
from orchestrator.planning.simulation.live import Task, run_live
from orchestrator.planning.simulation.paper import Paper
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica import ReplicaSpec
from orchestrator.planning.simulation.script import Solutions, solving
from orchestrator.planning.simulation.shapes import JobShape, one_call
from orchestrator.planning.simulation.step_time import Accelerator, Plane, StepTime
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap
from orchestrator.planning.workload import Lengths
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

LOADS = {"low": 0.4, "near": 0.85, "above": 1.3}
"""Shares of the saturation rate that the simulation predicts."""
WANTED = 0.2
_SLOTS, _STEP_S, _PROMPT_TOKEN_S = 8, 0.05, 0.0001
_LAB_SEQUENCES = 16
_WIDTH, _LAB_WIDTH = 4, 8
_SEEDS = 40
_VIRTUAL_REPEATS, _VIRTUAL_JOBS = 4, 250
_LARGE, _GPU, _GPUS = "llama-3.1-70b", "H100", 4
"""What the large fleets are made of."""
_SCALE_WINDOW = Window(duration_s=45.0, warmup_s=20.0, drain_s=45.0)
_RECORDED = 150
"""Jobs whose lengths the predictions draw from."""
_LAB_SET = "expression@10"
_LOOK = Solutions(lengths=Lengths(12.0, 0.4), steps=1.0)


class Watched:
    """An engine that notes what it was asked for; implements `Engine` and `Tokenizes`."""

    def __init__(self, inner: Engine) -> None:
        assert isinstance(inner, Tokenizes)
        self.inner = inner
        self._tokens: Tokenizes = inner
        self.calls: dict[str, list[tuple[Prefilled, dict[int, int]]]] = {}

    def describe(self) -> ModelDescription:
        """The inner one's."""
        return self.inner.describe()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """The inner one's events."""
        prefilled, outputs = Prefilled(0), dict[int, int]()
        try:
            async for event in self.inner.generate(request):
                if isinstance(event, Prefilled):
                    prefilled = event
                elif isinstance(event, Finished):
                    outputs[event.index] = event.output_tokens
                yield event
        finally:
            self.calls.setdefault(request.tree_id, []).append((prefilled, outputs))

    def cancel(self, request_id: str) -> None:
        """Passed on."""
        self.inner.cancel(request_id)

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Passed on."""
        await self.inner.release(tree_id, keep=keep)

    async def health(self) -> EngineHealth:
        """The inner one's."""
        return await self.inner.health()

    async def aclose(self) -> None:
        """Closes the inner one."""
        await self.inner.aclose()

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """The inner one's."""
        return self._tokens.count_prompt_tokens(prompt)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The inner one's."""
        return self._tokens.tokenize(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The inner one's."""
        return self._tokens.detokenize(token_ids)


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem as it is put to the system."""

    text: str
    messages: tuple[Message, ...] | None = None


@dataclass(slots=True)
class Real:
    """A system that is measured.

    Attributes:
        name: For the page.
        engine: The model.
        ttc: The controller.
        problem: The n-th problem; no two are alike.
        num_slots: Sequences that are decoded at once.
        width: Samples of each job of a load.
        quick: Tells how long replies are in less time, for a record of lengths; not timed.
        options: Of each job.
        is_virtual: Whether its time is virtual; its controller costs nothing then.
    """

    name: str
    engine: Watched
    ttc: Orchestrator
    problem: Callable[[int], Asked]
    num_slots: int
    width: int
    quick: tuple[Watched, Orchestrator]
    options: dict[str, Any] = field(default_factory=dict)  # Any: as for `Orchestrator.solve`
    is_virtual: bool = False
    num_asked: int = 0

    async def solve(self, width: int, *, quickly: bool = False) -> LoneJob:
        """One job; what it took, if it had the system to itself."""
        self.num_asked += 1
        asked = self.problem(self.num_asked)
        engine, ttc = self.quick if quickly else (self.engine, self.ttc)
        job = ttc.check(
            asked.text,
            messages=asked.messages,
            policy="self_consistency",
            params={"n": width},
            seed=self.num_asked,
            **self.options,
        )
        record = ttc.new_record(job)
        now = asyncio.get_running_loop().time
        begun, cpu = now(), time.thread_time()
        result = await ttc.run_new(job, record)
        seconds, cpu_s = now() - begun, 0.0 if self.is_virtual else time.thread_time() - cpu
        result.raise_for_error()
        calls = engine.calls.pop(record.id)
        outputs = tuple(lengths[index] for _, lengths in calls for index in sorted(lengths))
        read = sum(prefilled.prompt_tokens - prefilled.cached_tokens for prefilled, _ in calls)
        prefix = max(prefilled.prompt_tokens for prefilled, _ in calls)
        return LoneJob(prompt_tokens=read, prefix_tokens=prefix, outputs=outputs, seconds=seconds, cpu_s=cpu_s)

    async def calibrate(self, num_jobs: int) -> list[LoneJob]:
        """Jobs one at a time, of widths from 1 to the number of slots."""
        widths = [width for width in (1, 2, 4, 8, 16) if width <= self.num_slots]
        return [await self.solve(widths[number % len(widths)]) for number in range(num_jobs)]

    async def record(self, num_jobs: int) -> Mix:
        """Jobs of the width that is loaded, on problems of their own: only how long their replies are is kept."""
        jobs = [await self.solve(self.width, quickly=True) for _ in range(num_jobs)]
        return Mix.of(*(one_call(job.outputs, prompt_tokens=job.prefix_tokens) for job in jobs))

    async def load(self, times_s: Sequence[float]) -> dict[str, float]:
        """Jobs at these times, whatever comes of those before: jobs per second, and percentiles of their time."""
        durations: list[float] = []
        now = asyncio.get_running_loop().time
        start = now()

        async def one(at_s: float) -> None:
            await asyncio.sleep(max(0.0, start + at_s - now()))
            await self.solve(self.width)
            durations.append(now() - start - at_s)

        async with asyncio.TaskGroup() as jobs:
            for at_s in times_s:
                jobs.create_task(one(at_s))
        seconds = now() - start - times_s[0]
        return {"throughput": len(times_s) / seconds, **_times(durations)}


def _times(durations: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.quantile(durations, [0.5, 0.95])
    return {"p50_s": float(p50), "p95_s": float(p95)}


@asynccontextmanager
async def slotted(*, is_virtual: bool = False) -> AsyncIterator[Real]:
    """8 slots, 50 ms."""
    clock = VirtualClock() if is_virtual else SystemClock()
    inner = ScriptedEngine(solving(_LOOK), name="slotted", tokens_per_delta=1, keep_log=False)
    engine = Watched(SlottedEngine(inner, slots=_SLOTS, step_s=_STEP_S, prompt_token_s=_PROMPT_TOKEN_S))
    unslotted = Watched(inner)
    async with Orchestrator(engine, clock=clock) as ttc, Orchestrator(unslotted, clock=clock) as quick:
        yield Real(
            "slotted",
            engine,
            ttc,
            lambda number: Asked(f"Problem {number} " + "word " * (20 + 37 * number % 200)),
            _SLOTS,
            _WIDTH,
            (unslotted, quick),
            is_virtual=is_virtual,
        )


@asynccontextmanager
async def lab() -> AsyncIterator[Real]:
    """`lab:small`."""
    found = open_set(_LAB_SET, count=2000, seed=5)
    problems = found.problems
    engine = Watched(await open_model("lab:small", settings=read_settings()))
    options = {"answer": found.answer_kind, "max_sample_tokens": found.max_sample_tokens}
    try:
        async with Orchestrator(engine) as ttc:
            yield Real(
                "lab",
                engine,
                ttc,
                lambda number: Asked(problems[number % len(problems)].text, problems[number % len(problems)].messages),
                _LAB_SEQUENCES,
                _LAB_WIDTH,
                (engine, ttc),
                options,
            )
    finally:
        await engine.aclose()


def _spec(constants: Constants, *, num_slots: int) -> SystemSpec:
    replica = ReplicaSpec(step=constants.step, max_sequences=num_slots, kv_tokens=16_384)
    return SystemSpec(
        pools={"small": PoolSpec(replica=replica, call_s=constants.call_s)},
        controllers=ControllerSpec(job_s=constants.job_s, sequence_s=constants.sequence_s),
    )


def _predicted(spec: SystemSpec, times_s: Sequence[float], mix: Mix) -> dict[str, list[float]]:
    """Throughput and percentiles for each seed: the arrivals are known, the jobs are drawn."""
    found: dict[str, list[float]] = {"throughput": [], "p50_s": [], "p95_s": []}
    for seed in range(_SEEDS):
        heap = EventHeap()
        system = System(spec, heap, seed=seed)
        for arrival in Given(times_s, mix).jobs(np.random.default_rng([seed, 3])):
            heap.at(arrival.time_s, partial(system.play, arrival.shape))
        heap.run()
        measured = system.measured
        p50, p95 = measured.job_s.percentiles(0.5, 0.95)
        values = {"throughput": len(times_s) / (max(measured.ends_s) - times_s[0]), "p50_s": p50, "p95_s": p95}
        for name, value in values.items():
            found[name].append(value)
    return found


async def validate(
    opened: Callable[[], Any], *, repeats: int, num_lone: int, num_jobs: int
) -> dict[str, Any]:  # Any: JSON values
    """Calibrates and predicts a system ``repeats`` times; each time with jobs that it has not seen."""
    runs: list[dict[str, Any]] = []
    async with opened() as real:
        for _ in range(3):
            await real.solve(real.width)
        for repeat in range(repeats):
            runs.append(await _validated(real, repeat, num_lone=num_lone, num_jobs=num_jobs))
            print(real.name, runs[-1], flush=True)
    return {"repeats": runs, "loads": {load: _summary([run["loads"][load] for run in runs]) for load in LOADS}}


async def _validated(real: Real, repeat: int, *, num_lone: int, num_jobs: int) -> dict[str, Any]:
    """One round: constants, then each load between two more calibrations, whose constants it is predicted with."""
    mix = await real.record(_RECORDED)
    lone = await real.calibrate(num_lone)
    constants = calibrated(lone, num_slots=real.num_slots)
    saturation = saturation_rate(_spec(constants, num_slots=real.num_slots), mix)
    loads: dict[str, Any] = {}
    before = lone
    for load, share in LOADS.items():
        rng = np.random.default_rng([repeat, round(share * 100)])
        times_s = np.cumsum(rng.exponential(1 / (share * saturation), num_jobs)).tolist()
        steps = _steps(real)
        measured = await real.load(times_s)
        steps = tuple(np.subtract(_steps(real), steps))
        after = await real.calibrate(num_lone // 2)
        near = [*before[-num_lone // 2 :], *after]
        fitted = calibrated(near, num_slots=real.num_slots)
        predicted = _predicted(_spec(fitted, num_slots=real.num_slots), times_s, mix)
        loads[load] = {
            "share": share,
            "rate": share * saturation,
            "measured": measured,
            "predicted": {name: statistics.mean(values) for name, values in predicted.items()},
            "range": {name: np.quantile(values, [0.025, 0.975]).tolist() for name, values in predicted.items()},
            "error": {name: statistics.mean(values) / measured[name] - 1 for name, values in predicted.items()},
            "load_average": os.getloadavg()[0],
        }
        if steps[0] and not real.is_virtual:
            loads[load] |= _drift(real, fitted, times_s, mix, measured, step_s=float(steps[1] / steps[0]))
        before = after
    return {"constants": asdict(constants), "saturation": saturation, "loads": loads}


def _steps(real: Real) -> tuple[float, float]:
    """Steps of the slotted engine so far, and their seconds; zeros of another one."""
    engine = real.engine.inner
    return (engine.num_steps, engine.steps_s) if isinstance(engine, SlottedEngine) else (0, 0.0)


def _drift(
    real: Real,
    fitted: Constants,
    times_s: Sequence[float],
    mix: Mix,
    measured: dict[str, float],
    *,
    step_s: float,
) -> dict[str, Any]:  # Any: JSON values
    """How much longer steps took under the load than the fitted ones (prompts that are read in them included), and the
    errors with that known: what is left is the model's, and no prediction any more.
    """
    factor = step_s / fitted.step.seconds(real.num_slots, real.num_slots * 120)
    step = replace(
        fitted.step,
        overhead_s=fitted.step.overhead_s * factor,
        compute=Plane(*(value * factor for value in astuple(fitted.step.compute))),
    )
    spec = _spec(replace(fitted, step=step), num_slots=real.num_slots)
    values = {name: statistics.mean(each) for name, each in _predicted(spec, times_s, mix).items()}
    return {"step_drift": factor, "error_with_drift": {name: values[name] / measured[name] - 1 for name in values}}


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("throughput", "p50_s", "p95_s")
    return {
        "error": {name: [run["error"][name] for run in runs] for name in names},
        "within": {name: sum(abs(run["error"][name]) <= WANTED for run in runs) for name in names},
        "repeats": len(runs),
    }


def _roofline(name: str) -> ReplicaSpec:
    shape = presets()[name]
    step = StepTime.idealised(shape.cost, Accelerator(990e12 * 0.5, 3.35e12 * 0.8), overhead_s=0.002)
    return ReplicaSpec(step=step, kv_tokens=int((80 * 2**30 * 0.9 - shape.memory_bytes) / shape.kv_bytes_per_token))


def shapes_against_live(*, num_jobs: int) -> list[dict[str, Any]]:
    """The real controller in virtual time beside the shapes recorded from it, on the same fleet and arrivals."""
    replica = _roofline("qwen2.5-7b")
    spec = SystemSpec(pools={"small": PoolSpec(replica=replica, num_replicas=2), "verifier": PoolSpec(replica=replica)})
    rows = []
    for policy, params, verifier in (
        ("self_consistency", {"n": 8}, None),
        ("adaptive_consistency", {}, None),
        ("best_of_n", {"n": 8}, "process_reward"),
        ("beam_search", {}, "process_reward"),
        ("rebase", {"width": 8}, "process_reward"),
        ("mcts", {}, "process_reward"),
    ):
        arrivals = np.cumsum(np.random.default_rng(2).exponential(0.5, num_jobs)).tolist()
        begun = time.process_time()
        live = run_live(spec, Task(policy=policy, params=params, verifier=verifier), arrivals)
        live_s = time.process_time() - begun
        begun = time.process_time()
        heap = EventHeap()
        system = System(spec, heap)
        for at_s, shape in zip(arrivals, live.shapes, strict=True):
            heap.at(at_s, partial(system.play, shape))
        heap.run()
        rows.append(
            {
                "policy": policy,
                "jobs": len(live.shapes),
                "sequences": statistics.mean(shape.num_sequences for shape in live.shapes),
                "live_p95_s": live.system.measured.job_s.percentiles(0.95)[0],
                "played_p95_s": system.measured.job_s.percentiles(0.95)[0],
                "live_cpu_ms": 1e3 * live_s / num_jobs,
                "played_cpu_ms": 1e3 * (time.process_time() - begun) / num_jobs,
            }
        )
    return rows


def scales(numbers: Sequence[int], shapes: Sequence[JobShape]) -> list[dict[str, Any]]:
    """Fleets of so many GPUs, each at 80% of its saturation rate: what comes out, and what simulating it takes."""
    catalogue = Catalogue.default()
    replica = Paper(catalogue=catalogue).replica(open_shape(_LARGE), catalogue.gpu(_GPU), _GPUS)
    mix = Mix.of(*shapes)
    one = saturation_rate(SystemSpec(pools={"small": PoolSpec(replica=replica)}), mix)
    rows = []
    for number in numbers:
        replicas = max(1, number // _GPUS)
        spec = SystemSpec(pools={"small": PoolSpec(replica=replica, num_replicas=replicas)})
        begun = time.process_time()
        outcome: Outcome = simulate(spec, Poisson(0.8 * one * replicas, mix), _SCALE_WINDOW)
        cpu_s = time.process_time() - begun
        rows.append(
            {
                "gpus": replicas * _GPUS,
                "jobs": outcome.num_jobs,
                "throughput": outcome.throughput,
                "tokens_per_s": outcome.tokens_per_s,
                "p50_s": outcome.job_p50_s,
                "p95_s": outcome.job_p95_s,
                "imbalance": outcome.pools["small"].imbalance,
                "events": outcome.events,
                "cpu_s": cpu_s,
                "events_per_cpu_s": outcome.events / cpu_s,
            }
        )
        print(rows[-1], flush=True)
    return rows


def recorded(policy: str, params: dict[str, Any], *, num_jobs: int) -> tuple[JobShape, ...]:
    """Shapes of a policy's jobs."""
    spec = SystemSpec(pools={"small": PoolSpec(replica=_roofline("qwen2.5-7b"))})
    arrivals = [2.0 * number for number in range(num_jobs)]
    return run_live(spec, Task(policy=policy, params=params), arrivals, seed=9).shapes


def page(result: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# The fleet simulation against real runs",
        "",
        "Written by `python -m orchestrator.bench.simulation`; what is simulated and why: "
        "[planning](../design/planning.md). " + machine_line(result["machine"]),
        "",
    ]
    for name, title in (
        ("virtual", "A scripted engine of 8 slots, 50 ms a step, behind the real controller, in virtual time"),
        ("slotted", "The same in real time, on a machine shared with other work"),
        ("lab", "`lab:small` in the embedded engine, behind the real controller"),
    ):
        if name in result:
            lines += _validation(title, result[name])
    if "live" in result:
        lines += _live_section(result["live"])
    if "scales" in result:
        lines += _scale_section(result["scales"])
    return "\n".join(lines) + "\n"


def _validation(title: str, found: dict[str, Any]) -> list[str]:
    has_drift = "step_drift" in found["repeats"][0]["loads"]["low"]
    head = ["load", "repeat", "", "measured", "predicted", "95% of seeds", "error"]
    head += ["mean step under load / fitted", "error with that known"] if has_drift else []
    rows = []
    for load in LOADS:
        for number, run in enumerate(found["repeats"]):
            one = run["loads"][load]
            for name, label in (("throughput", "jobs/s"), ("p95_s", "p95 of job time, s")):
                low, high = one["range"][name]
                rows.append(
                    [
                        f"{load} ({one['share']:.0%})",
                        number + 1,
                        label,
                        f"{one['measured'][name]:.3g}",
                        f"{one['predicted'][name]:.3g}",
                        f"{low:.3g} to {high:.3g}",
                        f"{one['error'][name]:+.0%}",
                        *([f"{one['step_drift']:.2f}", f"{one['error_with_drift'][name]:+.0%}"] if has_drift else []),
                    ]
                )
    within = [
        f"{load}: throughput {found['loads'][load]['within']['throughput']} of {found['loads'][load]['repeats']}, "
        f"p95 {found['loads'][load]['within']['p95_s']} of {found['loads'][load]['repeats']}"
        for load in LOADS
    ]
    lines = [f"## {title}", ""]
    constants = "; ".join(_constants(run["constants"]) for run in found["repeats"])
    lines += [
        f"Constants of each repeat, fitted to jobs that had the system to themselves: {constants}.",
        "",
        f"Predictions within {WANTED:.0%} of what was measured: {'; '.join(within)}."
        + (_busyness(found) if has_drift else ""),
        "",
        *table(head, rows),
        "",
    ]
    return lines


def _busyness(found: dict[str, Any]) -> str:
    """How much else the machine had to do."""
    loads = [run["loads"][load]["load_average"] for run in found["repeats"] for load in LOADS]
    return (
        f" The machine's load average was {min(loads):.0f} to {max(loads):.0f} meanwhile; the last two columns tell "
        "what that did to steps, and what is left of the error."
    )


def _constants(found: dict[str, Any]) -> str:
    step, plane = found["step"], found["step"]["compute"]
    return (
        f"step {1e3 * step['overhead_s']:.2f} ms + {1e3 * plane['sequence_s']:.3f} ms a sequence, prompt token "
        f"{1e3 * plane['prompt_s']:.3f} ms, call {1e3 * found['call_s']:.1f} ms, controller {1e3 * found['job_s']:.1f} "
        f"ms a job and {1e3 * found['sequence_s']:.1f} ms a sequence of CPU (relative error of the fit "
        f"{found['error']:.1%})"
    )


def _live_section(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = ["policy", "jobs", "sequences a job", "p95 live, s", "p95 of shapes, s", "CPU ms a job, live", "of shapes"]
    cells = [
        [
            row["policy"],
            row["jobs"],
            f"{row['sequences']:.1f}",
            f"{row['live_p95_s']:.3f}",
            f"{row['played_p95_s']:.3f}",
            f"{row['live_cpu_ms']:.0f}",
            f"{row['played_cpu_ms']:.1f}",
        ]
        for row in rows
    ]
    return ["## Real policies in virtual time, and their shapes", "", *table(head, cells), ""]


def _scale_section(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = [
        "GPUs",
        "jobs",
        "jobs/s",
        "tokens/s",
        "p50, s",
        "p95, s",
        "busiest / mean",
        "events",
        "CPU s",
        "events/CPU s",
    ]
    cells = [
        [
            f"{row['gpus']:,}",
            f"{row['jobs']:,}",
            f"{row['throughput']:,.1f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['p50_s']:.2f}",
            f"{row['p95_s']:.2f}",
            f"{row['imbalance']:.2f}",
            f"{row['events']:,}",
            f"{row['cpu_s']:.1f}",
            f"{row['events_per_cpu_s']:,.0f}",
        ]
        for row in rows
    ]
    intro = (
        f"`{_LARGE}` on {_GPUS} {_GPU} a replica, as `ttc plan` computes it; `self_consistency` with 8 samples; 80% of "
        "the saturation rate. On paper only: nothing of this was measured on such GPUs."
    )
    return ["## Size", "", intro, "", *table(head, cells), ""]


def _earlier(folder: Path) -> dict[str, Any]:  # Any: JSON values
    """What is there of parts that are not run again."""
    file = folder / "simulation.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    parser.add_argument("--parts", default="virtual,slotted,lab,live,scales")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--lone", type=int, default=30, help="jobs that constants are fitted to")
    parser.add_argument("--gpus", default="10,100,1000,10000")
    given = parser.parse_args(arguments)
    result = _earlier(given.out)
    result["machine"] = machine()
    parts = given.parts.split(",")
    if "virtual" in parts:
        opened = partial(slotted, is_virtual=True)
        result["virtual"] = run_virtual(
            validate(opened, repeats=_VIRTUAL_REPEATS, num_lone=given.lone, num_jobs=_VIRTUAL_JOBS)
        )
    systems: dict[str, Callable[[], Any]] = {"slotted": slotted, "lab": lab}  # Any: asynchronous contexts
    for name, system in systems.items():
        if name in parts:
            work = validate(system, repeats=given.repeats, num_lone=given.lone, num_jobs=given.jobs)
            result[name] = asyncio.run(work)
    if "live" in parts:
        result["live"] = shapes_against_live(num_jobs=20)
    if "scales" in parts:
        shapes = recorded("self_consistency", {"n": 8}, num_jobs=100)
        result["scales"] = scales([int(number) for number in given.gpus.split(",")], shapes)
    write(given.out, "simulation", result, page(result))


if __name__ == "__main__":
    main()
