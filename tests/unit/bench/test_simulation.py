"""The simulation beside an engine that runs its steps one by one, behind the real controller, in virtual time."""

import asyncio
from functools import partial

import numpy as np
import pytest

from orchestrator.bench.loaded_systems import slotted
from orchestrator.planning.simulation.calibration import LoneJob, calibrated
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.shapes import one_call
from orchestrator.planning.simulation.step_time import Plane, StepTime
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap
from orchestrator.testing.virtual_time import run_virtual


async def real_jobs(times_s: list[float]) -> list[tuple[float, LoneJob]]:
    """How long each job took, and what it was."""
    found: dict[int, tuple[float, LoneJob]] = {}
    async with slotted(is_virtual=True) as real:
        now = asyncio.get_running_loop().time
        start = now()

        async def one(number: int) -> None:
            await asyncio.sleep(start + times_s[number] - now())
            job = await real.solve(real.width)
            found[number] = (now() - start - times_s[number], job)

        async with asyncio.TaskGroup() as jobs:
            for number in range(len(times_s)):
                jobs.create_task(one(number))
    return [found[number] for number in range(len(times_s))]


@pytest.mark.parametrize("rate", [0.7, 1.6, 2.5])
def test_each_job_takes_as_long_as_it_does_on_an_engine_that_runs_its_steps_one_by_one(rate: float):
    times_s = np.cumsum(np.random.default_rng(1).exponential(1 / rate, 40)).tolist()
    real = run_virtual(real_jobs(times_s))
    step = StepTime(overhead_s=0.05, compute=Plane(prompt_s=0.0001))
    spec = SystemSpec(pools={"small": PoolSpec(replica=ReplicaSpec(step=step, max_sequences=8))})
    heap = EventHeap()
    system = System(spec, heap)
    took: dict[int, float] = {}

    def play(number: int) -> None:
        job, began = real[number][1], heap.now()
        shape = one_call(job.outputs, prompt_tokens=job.prompt_tokens)
        system.play(shape, on_end=lambda: took.__setitem__(number, heap.now() - began))

    for number, at_s in enumerate(times_s):
        heap.at(at_s, partial(play, number))
    heap.run()
    assert [took[number] for number in range(40)] == pytest.approx([seconds for seconds, _ in real], abs=1e-6)


def test_constants_of_the_slotted_engine_are_found_from_lone_jobs():
    async def jobs() -> list[LoneJob]:
        async with slotted(is_virtual=True) as real:
            return await real.calibrate(16)

    found = calibrated(run_virtual(jobs()), num_slots=8)
    assert found.step.overhead_s == pytest.approx(0.05, rel=1e-6)
    assert found.step.compute.prompt_s == pytest.approx(0.0001, rel=1e-6)
    assert found.error < 1e-6
