"""Scores of steps by process reward models: while a pool is recorded, or later, in a copy of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.bench.recorded.pool import PoolWriter, read_pool
from orchestrator.bench.recorded.records import PoolProblem, RecordedModel, StepScores
from orchestrator.bench.report import machine
from orchestrator.engine import Engine, Prompt, RewardsSteps, require
from orchestrator.errors import ContextOverflow
from orchestrator.step_scores import split_steps

_PROBLEMS_AT_ONCE = 2


class Scorers:
    """Process reward models by the names under which a pool keeps their scores.

    Raises:
        CapabilityMissing: One of them scores no steps.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._judges: dict[str, RewardsSteps] = {
            name: require(engine, RewardsSteps)  # type: ignore[type-abstract]  # a protocol is the point
            for name, engine in engines.items()
        }
        self.models = {name: RecordedModel.of(engine.describe()) for name, engine in engines.items()}

    async def scored(self, prompt: Prompt, texts: Sequence[str]) -> dict[str, dict[str, StepScores]]:
        """The scores of each different text, by scorer; a text without steps, or that does not fit, has none."""
        wanted = [(text, name) for text in dict.fromkeys(texts) for name in self._judges]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._score(name, prompt, text)) for text, name in wanted]
        scores: dict[str, dict[str, StepScores]] = {text: {} for text in texts}
        for (text, name), task in zip(wanted, running, strict=True):
            if (found := task.result()) is not None:
                scores[text][name] = found
        return scores

    async def _score(self, name: str, prompt: Prompt, text: str) -> StepScores | None:
        steps = split_steps(text)
        if not steps:
            return None
        try:
            found = await self._judges[name].reward_steps(prompt, steps)
        except ContextOverflow:
            return None
        return StepScores(found.rewards, found.prompt_tokens)


async def score_again(
    source: Path, target: Path, engines: Mapping[str, Engine], *, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """A copy of a pool whose samples are scored by these reward models, in place of any before; can be gone on with.

    Args:
        source: The pool.
        target: The copy; another file than the source.
        engines: Reward models by name.
        on_progress: Called with how many problems are done, and of how many.

    Returns:
        The finished copy.

    Raises:
        InvalidRequest: A file cannot be read or written, or the target holds another pool.
        CapabilityMissing: An engine scores no steps.
        EngineFailed: A model stopped.
    """
    scorers = Scorers(engines)
    pool = await asyncio.to_thread(read_pool, source)
    header = pool.header.model_copy(update={"scorers": scorers.models, "machine": machine()})
    writer = await asyncio.to_thread(PoolWriter, target, header)
    waiting = iter([problem for problem in pool.problems.values() if problem.id not in writer.held])

    async def work() -> None:
        for problem in waiting:
            writer.append(await _scored_again(scorers, problem))
            if on_progress is not None:
                on_progress(len(writer.held), len(pool.problems))

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_PROBLEMS_AT_ONCE):
                tasks.create_task(work())
    except* Exception as group:  # noqa: BLE001  # the first one that went wrong, without the group around it
        raise first_of(group) from None
    return await asyncio.to_thread(writer.finish, pool.problems)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of the errors that are in a group, at whatever depth."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _scored_again(scorers: Scorers, problem: PoolProblem) -> PoolProblem:
    scores = await scorers.scored(Prompt(problem.messages), [sample.text for sample in problem.samples])
    samples = tuple(replace(sample, scores=scores[sample.text]) for sample in problem.samples)
    return replace(problem, samples=samples)
