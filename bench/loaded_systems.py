"""Real systems that the simulation is held against: an engine behind the real controller, with jobs put to it.

One batches on the event loop in slots, in virtual or in real time; the other is the lab's `small`. Constants are fitted
to the jobs that they do one at a time (`Real.calibrate`); loads (`Real.load`) are what is to be predicted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator import Orchestrator
from orchestrator.bench.sets import open_set
from orchestrator.bench.slotted_engine import SlottedEngine
from orchestrator.clock import SystemClock
from orchestrator.config import read_settings
from orchestrator.engine import (
    Engine,
    Finished,
    GenerateRequest,
    GenerationEvent,
    Message,
    ModelDescription,
    Prefilled,
    Prompt,
    Tokenizes,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.models import open_model
from orchestrator.planning.simulation.arrivals import Mix
from orchestrator.planning.simulation.calibration import LoneJob
from orchestrator.planning.simulation.script import Solutions, solving
from orchestrator.planning.simulation.shapes import one_call
from orchestrator.planning.workload import Lengths
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.virtual_time import VirtualClock

_SLOTS, _STEP_S, _PROMPT_TOKEN_S = 8, 0.05, 0.0001
_LAB_SEQUENCES = 16
_WIDTH, _LAB_WIDTH = 4, 8
_LAB_MODEL, _LAB_SET = "hosted:lab:small", "expression@10"
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
    engine = Watched(await open_model(_LAB_MODEL, settings=read_settings()))
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
