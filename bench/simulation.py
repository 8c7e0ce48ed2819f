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
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.loaded_systems import Real, lab, slotted
from orchestrator.bench.report import PUBLISHED, machine, write
from orchestrator.bench.simulation_page import GPU, GPUS, LARGE, LOADS, WANTED, page
from orchestrator.bench.slotted_engine import SlottedEngine
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape, presets
from orchestrator.planning.simulation.arrivals import Given, Mix, Poisson
from orchestrator.planning.simulation.calibration import Constants, calibrated
from orchestrator.planning.simulation.controllers import ControllerSpec
from orchestrator.planning.simulation.experiment import Window, saturation_rate, simulate
from orchestrator.planning.simulation.live import Task, run_live
from orchestrator.planning.simulation.outcome import Outcome
from orchestrator.planning.simulation.paper import Paper
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.shapes import JobShape
from orchestrator.planning.simulation.step_time import Accelerator, Plane, StepTime
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap
from orchestrator.testing.virtual_time import run_virtual

_SEEDS = 40
_VIRTUAL_REPEATS, _VIRTUAL_JOBS = 4, 250
_SCALE_WINDOW = Window(duration_s=45.0, warmup_s=20.0, drain_s=45.0)
_RECORDED = 150
"""Jobs whose lengths the predictions draw from."""


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
    replica = Paper(catalogue=catalogue).replica(open_shape(LARGE), catalogue.gpu(GPU), GPUS)
    mix = Mix.of(*shapes)
    one = saturation_rate(SystemSpec(pools={"small": PoolSpec(replica=replica)}), mix)
    rows = []
    for number in numbers:
        replicas = max(1, number // GPUS)
        spec = SystemSpec(pools={"small": PoolSpec(replica=replica, num_replicas=replicas)})
        begun = time.process_time()
        outcome: Outcome = simulate(spec, Poisson(0.8 * one * replicas, mix), _SCALE_WINDOW)
        cpu_s = time.process_time() - begun
        rows.append(
            {
                "gpus": replicas * GPUS,
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
