"""Runs the jobs of a plan, many at once, and writes a row for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.bench.runs.judging import Judge, Oracle
from orchestrator.bench.runs.plan import Job, Plan
from orchestrator.bench.runs.row_file import FLUSH_EVERY_S, RowFile
from orchestrator.bench.runs.rows import Row
from orchestrator.bench.runs.scenarios import Scenario
from orchestrator.bench.runs.suite import ORACLE
from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import (
    BudgetExhausted,
    CapabilityMissing,
    InvalidRequest,
    NoAnswer,
    StoreFailed,
    TtcError,
    UnknownName,
)
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator
from orchestrator.job import Result
from orchestrator.models import open_model
from orchestrator.store import JobState

_LOG = logging.getLogger(__name__)

_NO_FAILURES = (NoAnswer, BudgetExhausted)
"""What these say is that there is no answer."""
_MAX_ERROR_CHARS = 300


@dataclass(slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        num_jobs: In all, those of earlier runs included.
        num_skipped: Done by an earlier run.
        num_done: Done in this one.
        num_correct: Right answers among those.
        num_failed: Jobs that failed among those.
        num_unscored: Texts that a verifier could not score.
        unscored_reason: Why not the last of them.
        num_short: Samples that jobs asked for beyond what pools hold.
        output_tokens: Of this run.
    """

    num_jobs: int = 0
    num_skipped: int = 0
    num_done: int = 0
    num_correct: int = 0
    num_failed: int = 0
    num_unscored: int = 0
    unscored_reason: str = ""
    num_short: int = 0
    output_tokens: int = 0

    def count(self, row: Row) -> None:
        """Counts a job that is done."""
        self.num_done += 1
        self.num_correct += row.is_correct
        self.num_failed += row.error is not None
        self.output_tokens += row.usage.get("output_tokens", 0)


@dataclass(slots=True)
class BenchRun:
    """A plan being carried out.

    Args:
        plan: What is to be run; learns what turns out to be impossible.
        rows: Where rows go; what it holds is not run again.
        settings: For models.

    Attributes:
        progress: How far it has come.

    Raises:
        InvalidRequest: `rows` holds rows of the same suite and label with other parameters.
    """

    plan: Plan
    rows: RowFile
    settings: Settings
    progress: Progress = field(default_factory=Progress)
    _known: frozenset[tuple[str, ...]] = frozenset()
    _engines: dict[str, Engine] = field(default_factory=dict)
    _orchestrator: Orchestrator | None = None
    _is_stopped: bool = False

    def __post_init__(self) -> None:
        suite = self.plan.suite
        for strategy in suite.strategies:
            known = self.rows.meanings.get((suite.name, strategy.label))
            if known is not None and known != (strategy.policy, strategy.params):
                raise InvalidRequest(
                    f"{self.rows.path} holds rows of {strategy.label!r} with other parameters "
                    f"({known[0]}, {known[1]}); name another --out, or give another label",
                    field="out",
                    value=str(self.rows.path),
                )
        self._known = frozenset(self.rows.keys)
        self._count_jobs()

    def _count_jobs(self) -> None:
        keys = [job.row(self.plan.suite).key for job in self.plan.jobs()]
        self.progress.num_jobs = len(keys)
        self.progress.num_skipped = sum(key in self._known for key in keys)
        self.progress.num_done = sum(key in self.rows.keys for key in keys) - self.progress.num_skipped

    def stop(self) -> None:
        """Ends what runs and begins nothing more; jobs that were cut off get no row, so a resumed run has them."""
        self._is_stopped = True
        if self._orchestrator is not None:
            self._orchestrator.cancel_all()

    async def run(self, *, num_at_once: int) -> None:
        """Runs what there is no row of yet, so many jobs at once.

        Raises:
            TtcError: A model cannot be opened, or rows cannot be written.
        """
        num_refused_before = len(self.plan.refusals)
        try:
            for scenario in self.plan.scenarios:
                is_done = next(self.plan.pending(scenario, self.rows.keys), None) is None
                if not is_done and not self._is_stopped:
                    await self._run_scenario(scenario, num_at_once)
        finally:
            for engine in self._engines.values():
                await engine.aclose()
            self._engines.clear()
        refused = self.plan.refusals[num_refused_before:]
        if refused:  # what is not measured on all problems is not measured
            name = self.plan.suite.name
            self.rows.drop(lambda row: row.suite == name and any(refusal.covers(row) for refusal in refused))
            self._count_jobs()

    async def _run_scenario(self, scenario: Scenario, num_at_once: int) -> None:
        models = {role: await self._engine(model) for role, model in self.plan.models_of(scenario).items()}
        judge = Judge(scenario.problem_set, is_quick=scenario.has_quick_check)
        alone = self.settings.model_copy(update={"large": None})  # only who is named takes part
        async with Orchestrator(models.pop("small"), roles=models, settings=alone) as orchestrator:
            orchestrator.register_verifier(ORACLE, Oracle(judge, scenario.problems))
            for strategy in self.plan.suite.strategies:
                if strategy.verifier is not None and strategy.verifier_name is not None:
                    orchestrator.register_verifier(strategy.verifier_name, strategy.verifier)
            self._orchestrator = orchestrator
            waiting = self.plan.pending(scenario, self.rows.keys)
            async with asyncio.TaskGroup() as tasks:
                flushing = tasks.create_task(self._flush_regularly())
                workers = [tasks.create_task(self._work(waiting, orchestrator, judge)) for _ in range(num_at_once)]
                await asyncio.wait(workers)
                flushing.cancel()
            self._orchestrator = None
            self.progress.num_short += sum(getattr(engine, "num_refused_samples", 0) for engine in orchestrator.fleet)
        self.rows.flush()

    async def _engine(self, model: str | Engine) -> Engine:
        if not isinstance(model, str):
            return model
        if model not in self._engines:
            self._engines[model] = await open_model(model, settings=self.settings)
        return self._engines[model]

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            self.rows.flush()

    async def _work(self, waiting: Iterator[tuple[Job, Row]], orchestrator: Orchestrator, judge: Judge) -> None:
        for job, row in waiting:
            if self._is_stopped:
                return
            done = await self._done(job, row, orchestrator, judge)
            if done is not None:
                self.rows.add(done)
                self.progress.count(done)

    async def _done(self, job: Job, row: Row, orchestrator: Orchestrator, judge: Judge) -> Row | None:
        """The job's row; None if it was cut off, or cannot be had here at all."""
        watcher = _Watcher(self.progress)
        error: TtcError | None = None
        try:
            await _solve(job, orchestrator, watcher)
        except StoreFailed:
            raise
        except TtcError as raised:
            error = raised
        if watcher.job_id is not None:
            await orchestrator.store.delete(watcher.job_id)
        result = watcher.result
        if result is not None and result.state is JobState.CANCELLED:
            return None
        if _is_impossible(error) and not watcher.lacks_conclusions_only:
            self.plan.refuse(job.scenario, job.strategy, str(error))
            return None
        has_failed = error is not None and not isinstance(error, _NO_FAILURES) and not _is_impossible(error)
        if result is None or has_failed:
            return row.model_copy(update={**_facts(result), "error": str(error)[:_MAX_ERROR_CHARS]})
        try:
            is_correct = await judge.is_correct(job.problem, result.text)
        except Exception as raised:  # noqa: BLE001  # checkers meet hostile texts; one must not end the run
            _LOG.exception("checking an answer failed", extra={"problem": job.problem.id})
            return row.model_copy(update={**_facts(result), "error": f"checking the answer failed: {raised!r:.200}"})
        return row.model_copy(update={**_facts(result), "is_correct": is_correct})


class _Watcher:
    """Keeps of a job's events what its row needs, also where the job fails."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lacking: set[str] = set()
        self.job_id: str | None = None
        self.result: Result | None = None

    def __call__(self, event: Event) -> None:
        if event.kind == "done":
            self._take(event.data)
        elif event.kind == "started":
            self.job_id = event.data["job_id"]
        elif event.kind == "result":
            self.result = event.data["result"]

    @property
    def lacks_conclusions_only(self) -> bool:
        """Whether nothing was missing but the ability to make a text state its answer: then it has none."""
        return self._lacking == {"Conclude"}

    def _take(self, done: dict[str, Any]) -> None:  # Any: JSON values
        if done.get("error", {}).get("code") == CapabilityMissing.code:
            self._lacking.add(done["action"]["type"])
        if done["action"]["type"] == "Score":
            outcome = done["outcome"]
            if problems := outcome.get("problems"):
                self._progress.num_unscored += outcome["scores"].count(None)
                self._progress.unscored_reason = problems[-1]


def _is_impossible(error: TtcError | None) -> bool:
    """Whether no other problem would fare better."""
    return isinstance(error, CapabilityMissing | UnknownName)


async def _solve(job: Job, orchestrator: Orchestrator, watcher: _Watcher) -> None:
    scenario, strategy = job.scenario, job.strategy
    await orchestrator.solve(
        job.problem.text,
        messages=job.problem.messages,
        answer=scenario.problem_set.answer_kind,
        policy=strategy.policy,
        params=strategy.params,
        budget=job.budget,
        sampling=strategy.sampling or scenario.sampling,
        max_sample_tokens=scenario.max_sample_tokens,
        seed=job.job_seed,
        on_event=watcher,
    )


def _facts(result: Result | None) -> dict[str, Any]:  # Any: values of several types, as `Row` has them
    if result is None:
        return {}
    return {
        "answer": result.text,
        "confidence": result.confidence,
        "stop_reason": result.stop_reason.value,
        "limited_by": result.limited_by,
        "num_samples": result.num_samples,
        "usage": result.usage.to_json(),
        "latency_s": result.usage.wall_s,
    }
