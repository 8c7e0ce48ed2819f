"""Records pools: all samples of every problem of a set, read, checked and scored; can be stopped and gone on with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.answers import AnswerReader
from orchestrator.asking import conversation  # what `Orchestrator.solve` shows to models
from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.recorded.pool import Header, PoolProblem, PoolSample, PoolWriter, RecordedModel, StepScores
from orchestrator.bench.recorded.sample import SampleRecord, TokenLengths
from orchestrator.bench.recorded.scoring import Scorers, first_of
from orchestrator.bench.report import machine
from orchestrator.engine import (
    Engine,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    check_capabilities,
)
from orchestrator.equipment import Equipment
from orchestrator.errors import ContextOverflow, EngineFailed, InvalidRequest
from orchestrator.sampling import Sampling, derived_seed

_MAX_ATTEMPTS = 3
_FIRST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a recording has come.

    Attributes:
        path: The file; the compressed one once everything is in it.
        num_problems: Of the set.
        num_held: Found in the file when recording began.
        num_recorded: Recorded since.
        num_correct: Right samples among the latter's.
        num_samples: All samples of the latter.
        output_tokens: Their tokens.
        elapsed_s: Since recording began, everything included.
    """

    path: Path
    num_problems: int
    num_held: int
    num_recorded: int = 0
    num_correct: int = 0
    num_samples: int = 0
    output_tokens: int = 0
    elapsed_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second, with everything that is done to them."""
        return self.output_tokens / self.elapsed_s if self.elapsed_s else 0.0


async def record(
    engine: Engine,
    problem_set: ProblemSet,
    *,
    num_samples: int,
    sampling: Sampling,
    seed: int,
    path: str | Path,
    scorers: Mapping[str, Engine] | None = None,
    concurrency: int = 4,
    want_logprobs: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Records a pool; problems that the file holds already are skipped.

    Whoever cancels this finds every problem that was done in ``NAME.pool.jsonl``, to be gone on with. What is shown to
    the model is what `Orchestrator.solve` shows. A sample's answer is read, as there, if the model ended it itself.

    Args:
        engine: Who writes.
        problem_set: What is asked.
        num_samples: Samples of each problem, all in one request.
        sampling: How tokens are chosen.
        seed: Each sample's seed derives from it.
        path: Of the file, with or without ``.pool.jsonl`` or ``.pool.xz``.
        scorers: Process reward models by the name their scores are to have; they score whole samples, equal ones once.
            A sample that is too long for one has no score.
        concurrency: Problems at a time.
        want_logprobs: Record the log probability of each token.
        on_progress: Called at the start and after every problem.

    Returns:
        What was recorded, and in which time.

    Raises:
        InvalidRequest: The file holds another recording, or an argument or a problem cannot be used.
        CapabilityMissing: The model tells no log probabilities, or a scorer scores no steps.
        EngineFailed: A model failed three times at one problem.
    """
    for name, value in (("num_samples", num_samples), ("concurrency", concurrency)):
        if value < 1:
            raise InvalidRequest(f"{name}={value} should be at least 1", field=name, value=value)
    judges = Scorers(scorers or {})
    facts = machine()
    header = Header(
        set=problem_set.name,
        answer_kind=problem_set.answer_kind,
        max_sample_tokens=problem_set.max_sample_tokens,
        model=RecordedModel.of(engine.describe()),
        sampling=sampling,
        seed=seed,
        num_samples=num_samples,
        has_logprobs=want_logprobs,
        scorers=judges.models,
        machine=facts,
        created=facts["date"],
    )
    ids = [problem.id for problem in problem_set.problems]
    if len(set(ids)) < len(ids):
        raise InvalidRequest(
            f"two problems of {problem_set.name} have the same id", field="set", value=problem_set.name
        )
    writer = await asyncio.to_thread(PoolWriter, path, header)
    equipment = Equipment()
    try:
        reader = equipment.reader(problem_set.answer_kind)
        recording = _Recording(engine, problem_set, writer, reader, judges, on_progress)
        await recording.run(concurrency)
        await asyncio.to_thread(writer.finish, ids)
    finally:
        await equipment.aclose()
    return recording.progress(writer.finished)


@dataclass(slots=True)
class _Recording:
    """A recording under way."""

    engine: Engine
    problem_set: ProblemSet
    writer: PoolWriter
    reader: AnswerReader
    scorers: Scorers
    on_progress: Callable[[Progress], None] | None
    _done: Progress = field(init=False)
    _started_at: float = field(init=False)
    _lengths: TokenLengths = field(init=False)

    def __post_init__(self) -> None:
        problems = self.problem_set.problems
        num_held = sum(problem.id in self.writer.held for problem in problems)
        self._done = Progress(path=self.writer.recording, num_problems=len(problems), num_held=num_held)
        self._started_at = time.monotonic()
        self._lengths = TokenLengths(self.engine)

    def progress(self, path: Path) -> Progress:
        """How far it has come."""
        return replace(self._done, path=path, elapsed_s=time.monotonic() - self._started_at)

    async def run(self, concurrency: int) -> None:
        """Records what the file does not hold."""
        self._tell()
        waiting = iter([problem for problem in self.problem_set.problems if problem.id not in self.writer.held])
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(concurrency):
                    tasks.create_task(self._work(waiting))
        except* Exception as group:  # noqa: BLE001  # the first one that went wrong, without the group around it
            raise first_of(group) from None

    async def _work(self, waiting: Iterator[Problem]) -> None:
        for problem in waiting:
            recorded = await self._problem(problem)
            self.writer.append(recorded)  # here, so that it is whole and done whatever is cancelled
            done = self._done
            self._done = replace(
                done,
                num_recorded=done.num_recorded + 1,
                num_correct=done.num_correct + recorded.num_correct,
                num_samples=done.num_samples + len(recorded.samples),
                output_tokens=done.output_tokens + sum(sample.output_tokens for sample in recorded.samples),
            )
            self._tell()

    def _tell(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self.progress(self.writer.recording))

    async def _problem(self, problem: Problem) -> PoolProblem:
        messages = conversation(problem.text, self.reader) if problem.messages is None else problem.messages
        try:
            prompt_tokens, records = await self._sampled(problem, messages)
        except ContextOverflow as error:
            message = f"problem {problem.id!r}: {error.message}, or leave the problem out"
            raise InvalidRequest(message, field="problem", value=problem.id) from None
        answers = [self.reader.extract(record.text) if record.is_final else None for record in records]
        correct = await asyncio.to_thread(self._checked, problem, answers)
        scores = await self.scorers.scored(Prompt(messages), [record.text for record in records])
        return PoolProblem(
            id=problem.id,
            text=problem.text,
            messages=messages,
            reference=problem.reference,
            prompt_tokens=prompt_tokens,
            samples=self._samples(records, answers, correct, scores),
        )

    def _samples(
        self,
        records: Sequence[SampleRecord],
        answers: Sequence[str | None],
        correct: Mapping[str | None, bool],
        scores: Mapping[str, Mapping[str, StepScores]],
    ) -> tuple[PoolSample, ...]:
        return tuple(
            record.sample(
                self._lengths,
                answer=answer,
                is_correct=correct[answer],
                scores=scores[record.text],
                has_logprobs=self.writer.header.has_logprobs,
            )
            for record, answer in zip(records, answers, strict=True)
        )

    async def _sampled(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[int, list[SampleRecord]]:
        """The prompt's length, and the samples; a request that failed is sent again."""
        header = self.writer.header
        request = GenerateRequest(
            request_id=f"pool/{problem.id}",
            prompt=Prompt(messages),
            samples=tuple(
                SampleSpec(derived_seed(header.seed, problem.id, index), header.max_sample_tokens)
                for index in range(header.num_samples)
            ),
            sampling=header.sampling,
            num_logprobs=int(header.has_logprobs),
            tree_id=f"pool/{problem.id}",
        )
        check_capabilities(request, self.engine.describe())
        try:
            for attempt in range(_MAX_ATTEMPTS):
                try:
                    return await self._streamed(replace(request, request_id=f"{request.request_id}/{attempt}"))
                except EngineFailed as error:
                    if not error.is_retryable or attempt + 1 == _MAX_ATTEMPTS:
                        raise
                    await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
            raise AssertionError("the last attempt returns or raises")
        finally:
            await self.engine.release(request.tree_id)

    async def _streamed(self, request: GenerateRequest) -> tuple[int, list[SampleRecord]]:
        records = [SampleRecord() for _ in request.samples]
        prompt_tokens = 0
        async with aclosing(self.engine.generate(request)) as events:  # type: ignore[type-var]  # async generators
            async for event in events:
                if isinstance(event, Prefilled):
                    prompt_tokens = event.prompt_tokens
                else:
                    records[event.index].take(event)
        if not all(record.is_finished for record in records):
            name = self.engine.describe().name
            raise EngineFailed(f"model {name!r} ended its stream too early", model=name)
        return prompt_tokens, records

    def _checked(self, problem: Problem, answers: Sequence[str | None]) -> dict[str | None, bool]:
        return {answer: self.problem_set.is_correct(problem, answer) for answer in set(answers)}
