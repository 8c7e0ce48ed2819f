"""Solves many problems, some at a time, and writes a row for each as it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from orchestrator import registry
from orchestrator.answers import AnswerClasses, AnswerReader
from orchestrator.api.terminal.asking import Asking
from orchestrator.api.terminal.problems import Problem
from orchestrator.api.terminal.results import ResultSink
from orchestrator.errors import StoreFailed, TtcError
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator
from orchestrator.job import Result
from orchestrator.store import JobState

Json = dict[str, Any]  # Any: JSON values


class Tally:
    """How far a run over many problems has come.

    Attributes:
        num_problems: Of the input.
        num_skipped: Rows that the output file held before.
        num_done: Rows, skipped ones included.
        num_answered: Rows with an answer.
        num_errors: Rows of lines that could not be used, or whose job failed.
        num_checked: Answers that could be compared with a reference, missing answers included.
        num_correct: Those that agree with it.
        output_tokens: Of this run.
        usd: Of this run.
    """

    def __init__(self, num_problems: int) -> None:
        self.num_problems = num_problems
        self.num_skipped = 0
        self.num_done = 0
        self.num_answered = 0
        self.num_errors = 0
        self.num_checked = 0
        self.num_correct = 0
        self.output_tokens = 0
        self.usd = 0.0

    def count(self, row: Json, *, is_skipped: bool = False) -> None:
        """Counts a row of the output."""
        self.num_done += 1
        self.num_skipped += is_skipped
        self.num_answered += row["status"] == "ok"
        self.num_errors += row["status"] == "error"
        if row.get("is_correct") is not None:
            self.num_checked += 1
            self.num_correct += bool(row["is_correct"])
        if not is_skipped:
            self.output_tokens += row.get("usage", {}).get("output_tokens", 0)
            self.usd += row.get("usd", 0.0)

    @property
    def accuracy(self) -> float | None:
        """Share of checked answers that are right."""
        return self.num_correct / self.num_checked if self.num_checked else None

    def to_json(self) -> Json:
        """All counts."""
        return {**vars(self), "accuracy": self.accuracy}


class Batch:
    """A run over many problems.

    Args:
        orchestrator: Open.
        asking: How to solve; rows may say otherwise.
        sink: Takes the rows.
        tally: Counts them.
        concurrency: Problems under way at once.
    """

    def __init__(
        self, orchestrator: Orchestrator, asking: Asking, sink: ResultSink, tally: Tally, *, concurrency: int
    ) -> None:
        self._orchestrator = orchestrator
        self._asking = asking
        self._sink = sink
        self._tally = tally
        self._concurrency = concurrency
        self._is_stopped = False

    def stop(self) -> None:
        """Ends what runs and begins nothing more; problems that were cut off get no row, so a resumed run has them."""
        self._is_stopped = True
        self._orchestrator.cancel_all()

    async def run(self, problems: Sequence[Problem]) -> None:
        """Solves all that can be solved.

        Raises:
            StoreFailed: Rows or journals cannot be written.
        """
        waiting = iter(problems)
        async with _reader(self._asking.answer) as reader, asyncio.TaskGroup() as tasks:
            for _ in range(min(self._concurrency, len(problems))):
                tasks.create_task(self._work(waiting, reader))

    async def _work(self, waiting: Iterator[Problem], reader: AnswerReader) -> None:
        for problem in waiting:
            if self._is_stopped:
                return
            row = await self._solved(problem, reader)
            if row is not None:
                self._sink.write(row)
                self._tally.count(row)

    async def _solved(self, problem: Problem, reader: AnswerReader) -> Json | None:
        head: Json = {"id": problem.id, "status": "error", "line": problem.line}
        if problem.text is None:
            return head | {"error": problem.error.fields() if problem.error else None}
        results: list[Result] = []

        def note(event: Event) -> None:
            if event.kind == "result":
                results.append(event.data["result"])
            if self._is_stopped:
                self._orchestrator.cancel_all()

        try:
            arguments = self._asking.overridden(problem.row).arguments()
            await self._orchestrator.solve(problem.text, **arguments, labels={"id": problem.id}, on_event=note)
        except StoreFailed:
            raise
        except TtcError as error:
            if not results:
                return head | {"error": error.fields()}
        result = results[-1]
        if result.state is JobState.CANCELLED:
            return None
        return head | await _outcome(problem, result, reader)


async def _outcome(problem: Problem, result: Result, reader: AnswerReader) -> Json:
    has_answer = result.text is not None
    is_failure = result.error is not None and result.error.code != "no_answer"
    row: Json = {"status": "ok" if has_answer else "error" if is_failure else "no_answer", **result.to_json()}
    if problem.reference is not None:
        row["reference"] = problem.reference
        row["is_correct"] = has_answer and await _agrees(problem.reference, result.text or "", reader)
    return row


async def _agrees(reference: str, answer: str, reader: AnswerReader) -> bool:
    classes = AnswerClasses(reader)
    return await classes.classify(reference) == await classes.classify(answer)


@asynccontextmanager
async def _reader(kind: str) -> AsyncIterator[AnswerReader]:
    reader: AnswerReader = registry.load("answer reader", "default")(kind)
    try:
        yield reader
    finally:
        await reader.aclose()
