"""The real controller and the real policies on a simulated fleet, in virtual time; and the shapes of their jobs.

Slower than playing shapes (every job's Python runs for real), and the truth about what policies do: when they stop,
what they cancel, how they go on. So it records the shapes that thousands of replicas are simulated with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.asking import CheckedJob
from orchestrator.config import Settings
from orchestrator.errors import RunFailure
from orchestrator.in_process import Orchestrator
from orchestrator.planning.simulation.engine import SimulatedEngine
from orchestrator.planning.simulation.recording import Recorder
from orchestrator.planning.simulation.script import Solutions, solving
from orchestrator.planning.simulation.shapes import JobShape
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import LoopTimeline
from orchestrator.testing.scripted_abilities import ScriptedJudge
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

_CONTEXT_LENGTH = 1 << 20
_APART_S = 10.0
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Jobs of one kind.

    Attributes:
        policy: How they are solved.
        params: Of the policy.
        budget: Caps, as ``--budget`` reads them; None for none.
        verifier: Who scores, where the policy wants one.
        prompt_tokens: Length of the problem.
        solutions: What models say, by role; a role that is not named says what ``small`` says.
    """

    policy: str = "single"
    params: Mapping[str, Any] = field(default_factory=dict)  # Any: each policy names the types of its own
    budget: str | None = None
    verifier: str | None = None
    prompt_tokens: int = 200
    solutions: Mapping[str, Solutions] = field(default_factory=lambda: {"small": Solutions()})


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What came of jobs under the real controller.

    Attributes:
        system: The fleet, with what was measured.
        shapes: Of the jobs that ended, in the order in which they began.
        end_s: When the last one ended.
        failures: Messages of jobs that failed.
    """

    system: System
    shapes: tuple[JobShape, ...]
    end_s: float
    failures: tuple[str, ...]


def run_live(spec: SystemSpec, task: Task, arrivals_s: Sequence[float], *, seed: int = 0) -> LiveRun:
    """Runs a job at each of these times, in virtual time.

    Args:
        spec: The fleet.
        task: What the jobs are.
        arrivals_s: When they arrive; ascending, seconds.
        seed: Of the jobs' samples.

    Raises:
        CallerError: There can be no such job; the error names what is wrong.
    """
    return run_virtual(_run(spec, task, arrivals_s, seed))


def record_shapes(spec: SystemSpec, task: Task, *, num_jobs: int, seed: int = 0) -> tuple[JobShape, ...]:
    """Shapes of jobs that have the fleet nearly to themselves: one begins every few seconds.

    Raises:
        CallerError: There can be no such job; the error names what is wrong.
        RunFailure: None of them ended well.
    """
    found = run_live(spec, task, [_APART_S * number for number in range(num_jobs)], seed=seed)
    if len(found.failures) == num_jobs:
        raise RunFailure(f"no job of policy {task.policy!r} ended well: {found.failures[0]}")
    return tuple(shape for shape in found.shapes if shape.calls)


async def _run(spec: SystemSpec, task: Task, arrivals_s: Sequence[float], seed: int) -> LiveRun:
    system = System(spec, LoopTimeline(), seed=seed)
    recorder = Recorder()
    roles = [role for role in ("small", "large", "verifier") if role in spec.roles or role in spec.pools]
    engines = {role: SimulatedEngine(_script(task, role), system, role=role, recorder=recorder) for role in roles}
    others = {role: engine for role, engine in engines.items() if role != "small"}
    shapes: dict[int, JobShape] = {}
    failures: list[str] = []
    loop = asyncio.get_running_loop()
    settings = Settings()

    async def one(number: int, ttc: Orchestrator) -> None:
        await asyncio.sleep(max(0.0, arrivals_s[number] - loop.time()))
        arrived = loop.time()
        asked = _asked(ttc, task, seed, number)
        record = ttc.new_record(asked)
        result = await ttc.run_new(asked, record)
        if result.error is not None:
            failures.append(result.error.message)
        if record.id in recorder.tree_ids:
            shapes[number] = recorder.take(record.id, task.policy)
            system.measured.job(shapes[number], arrived, -1.0, loop.time(), has_failed=result.error is not None)

    async with Orchestrator(engines["small"], roles=others, settings=settings, clock=VirtualClock()) as ttc:
        _asked(ttc, task, seed, 0)  # raises what is wrong with all of them
        async with asyncio.TaskGroup() as jobs:
            for number in range(len(arrivals_s)):
                jobs.create_task(one(number, ttc))
    return LiveRun(system, tuple(shapes[number] for number in sorted(shapes)), loop.time(), tuple(failures))


def _asked(ttc: Orchestrator, task: Task, seed: int, number: int) -> CheckedJob:
    return ttc.check(
        _problem(task.prompt_tokens, seed, number),
        policy=task.policy,
        params=dict(task.params),
        budget=task.budget,
        verifier=task.verifier,
        seed=seed * _SEED_STRIDE + number,
    )


def _script(task: Task, role: str) -> ScriptedJudge:
    look = task.solutions.get(role) or task.solutions.get("small") or Solutions()
    return ScriptedJudge(solving(look), name=role, context_length=_CONTEXT_LENGTH, keep_log=False)


def _problem(num_tokens: int, seed: int, number: int) -> str:
    return f"Problem {seed} {number}: " + " ".join(["word"] * max(0, num_tokens - 40))
