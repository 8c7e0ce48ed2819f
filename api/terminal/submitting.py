"""``ttc submit`` at work: goes on with what was submitted before, starts a job for the rest, and follows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator.api.terminal.batch import Json, Tally
from orchestrator.api.terminal.batch_display import showing_tally, summary
from orchestrator.api.terminal.following import Ending, Follower
from orchestrator.api.terminal.results import ResultFile, ResultSink, StandardOutput
from orchestrator.api.terminal.running import NO_ANSWER
from orchestrator.api.terminal.submission import MADE_BY, Batch, Feeding, new_job_id
from orchestrator.api.terminal.wording import printable
from orchestrator.errors import InvalidRequest, JobConflict, ServiceFailed, UnknownName
from orchestrator.workers.ray.jobs import JobState, RayJobs

_SETTING_UP = ("Runtime env is setting up", "Running entrypoint for job ")
"""What Ray itself writes into the log of every job."""


@dataclass(slots=True)
class Submitting:
    """One run of the command.

    Attributes:
        address: Of the cluster's job server.
        token: For clusters that want one.
        out: Where results go; None for stdout.
        is_quiet: Show no progress and no output of the job.
        as_json: Print a summary as a JSON object.
        job_id: The job that is under way.
    """

    address: str
    token: str | None
    out: Path | None
    is_quiet: bool
    as_json: bool
    job_id: str | None = None

    def submit(self, batch: Batch, *, waits: bool) -> int:
        """Runs what is missing of a batch.

        Returns:
            The exit code.
        """
        is_new = self.out is None or not self.out.exists()
        earlier = None if self.out is None else Feeding.of(self.out)
        tally = Tally(len(batch.problems or ()))
        with self._sink() as sink:
            rows = sink.rows if isinstance(sink, ResultFile) else {}
            wanted = rows if batch.problems is None else [problem.id for problem in batch.problems]
            for row_id in wanted:
                if row_id in rows:
                    tally.count(rows[row_id], is_skipped=True)
            run = _Run(self, batch, sink, tally, set(rows))
            return self._watched(tally, lambda: run.all(earlier, is_new=is_new, waits=waits))

    def follow(self, job_id: str) -> int:
        """Takes the results of a job that was submitted before.

        Returns:
            The exit code.
        """
        tally = Tally(0)
        with self._sink() as sink:

            async def take() -> int:
                async with self.jobs() as jobs:
                    await jobs.check()
                    check_ours(await jobs.state(job_id))
                    ending = await self.followed(
                        jobs, job_id, sink=_New(sink), tally=tally, known=set(), is_counting=True
                    )
                    return self.concluded(ending, tally)

            return self._watched(tally, take)

    def stop(self, job_id: str) -> int:
        """Ends a job.

        Returns:
            The exit code.
        """

        async def end() -> bool:
            async with self.jobs() as jobs:
                await jobs.check()
                check_ours(await jobs.state(job_id))
                return await jobs.stop(job_id)

        was_running = asyncio.run(end())
        if self.as_json:
            click.echo(json.dumps({"job_id": job_id, "address": self.address, "was_running": was_running}))
        elif not self.is_quiet:
            words = "is being stopped; what it has found is kept" if was_running else "had ended already"
            click.echo(f"job {job_id} {words}", err=True)
        return 0

    def jobs(self) -> RayJobs:
        """The job server, not connected yet."""
        return RayJobs(self.address, token=self.token)

    async def followed(
        self,
        jobs: RayJobs,
        job_id: str,
        *,
        sink: ResultSink,
        tally: Tally,
        known: set[str],
        wanted: frozenset[str] | None = None,
        is_counting: bool,
    ) -> Ending:
        """How a job ended, after all its results were taken."""
        self.job_id = job_id
        told = _Told(job_id, is_quiet=self.is_quiet)
        follower = Follower(
            jobs,
            job_id,
            sink=sink,
            tally=tally,
            known=known,
            wanted=wanted,
            is_counting=is_counting,
            on_line=told.line,
            on_state=told.state,
        )
        return await follower.follow()

    def concluded(self, ending: Ending, tally: Tally) -> int:
        """The exit code of a batch whose last job has ended.

        Raises:
            TtcError: The job failed.
        """
        tally.num_problems = max(tally.num_problems, tally.num_done)
        self.report(tally, ending.state.status)
        self.job_id = None
        again = "the same command again runs only what is missing"
        failure = ending.failure(way_out=again if self.out is not None else f"with --out FILE, {again}")
        if failure is not None:
            raise failure
        return exit_code_of(tally)

    def left(self, tally: Tally, status: str) -> int:
        """Says which job it is, to a caller who does not wait for it."""
        if self.as_json:
            self.report(tally, status)
        else:
            click.echo(self.job_id)
            self.tell_how_to_go_on()
        return 0

    def report(self, tally: Tally, status: str) -> None:
        """Says what came of it."""
        if self.as_json:
            out = None if self.out is None else str(self.out)
            head = {"job_id": self.job_id, "address": self.address, "status": status, "out": out}
            click.echo(json.dumps(head | tally.to_json()))
        elif not self.is_quiet:
            print(summary(tally), file=sys.stderr)

    def tell_how_to_go_on(self) -> None:
        """Says how to take up the job that is under way, or to stop it."""
        if self.job_id is None or self.is_quiet:
            return
        out = "" if self.out is None else f" --out {shlex.quote(str(self.out))}"
        where = f" --address {self.address}"
        click.echo(f"job {self.job_id} is the cluster's and goes on without this command", err=True)
        click.echo(f"  take its results:  ttc submit --follow {self.job_id}{where}{out}", err=True)
        click.echo(f"  stop it:           ttc submit --stop {self.job_id}{where}", err=True)

    @contextlib.contextmanager
    def _sink(self) -> Iterator[ResultSink]:
        if self.out is None:
            yield StandardOutput()
            return
        with ResultFile(self.out) as file:
            yield file

    def _watched(self, tally: Tally, work: Callable[[], Awaitable[int]]) -> int:
        """Runs ``work`` under a bar. Ctrl-C leaves it, and so does a failure on this side: the job goes on."""

        async def run() -> int:
            with _leaving() as signals:
                try:
                    async with showing_tally(tally, is_quiet=self.is_quiet or self.as_json):
                        return await work()
                except asyncio.CancelledError:
                    if not signals:
                        raise
                    if self.job_id is None:
                        click.echo("cancelled; nothing was started", err=True)
                    return 128 + signals[0]

        code = None
        try:
            code = asyncio.run(run())
            return code
        finally:
            if code is None or code > 128:
                self.tell_how_to_go_on()


@dataclass(slots=True)
class _Run:
    """A batch on its way through one job or two."""

    submitting: Submitting
    batch: Batch
    sink: ResultSink
    tally: Tally
    known: set[str]

    async def all(self, earlier: Feeding | None, *, is_new: bool, waits: bool) -> int:
        """What an earlier job has found or finds, then a job for the rest."""
        submitting = self.submitting
        if self._is_done():
            return self._nothing_to_do()
        async with submitting.jobs() as jobs:
            await jobs.check()
            if earlier is not None and earlier.address == jobs.address:
                code = await self._earlier(jobs, earlier, is_new=is_new, waits=waits)
                if code is not None:
                    return code
            await self._start(jobs, frozenset(self.known))
            assert submitting.job_id is not None
            if not waits:
                return submitting.left(self.tally, "PENDING")
            ending = await self._followed(jobs, submitting.job_id, is_counting=self.batch.problems is None)
            return submitting.concluded(ending, self.tally)

    async def _earlier(self, jobs: RayJobs, earlier: Feeding, *, is_new: bool, waits: bool) -> int | None:
        """Takes what the job found that fed the file before.

        Returns:
            The exit code; None if there is more to do.
        """
        submitting, job_id = self.submitting, earlier.job_id
        try:
            state = await jobs.state(job_id)
        except UnknownName:
            return None
        if earlier.digest != self.batch.digest or is_new:
            if state.is_over:
                return None
            why = "which is gone" if is_new else "but was asked for with other options"
            raise JobConflict(
                f"job {job_id} still runs and feeds {str(submitting.out)!r}, {why}; stop it (ttc submit --stop "
                f"{job_id} --address {submitting.address}), or name another --out",
                job_id=job_id,
            )
        submitting.job_id = job_id
        if not state.is_over and not waits:
            return submitting.left(self.tally, state.status)
        ending = await self._followed(jobs, job_id, is_counting=False)
        has_failed = not state.is_over and ending.failure(way_out="") is not None
        if self._is_done() or has_failed:
            return submitting.concluded(ending, self.tally) if has_failed else self._nothing_to_do()
        submitting.job_id = None
        return None

    async def _start(self, jobs: RayJobs, done: frozenset[str]) -> None:
        submitting, job_id = self.submitting, new_job_id()
        missing = self.batch.missing(done)
        working_dir = await jobs.upload(await asyncio.to_thread(self.batch.package, job_id, done))
        if submitting.out is not None:
            Feeding(job_id, jobs.address, self.batch.digest).write_beside(submitting.out)
        submitting.job_id = job_id
        try:
            await jobs.submit(self.batch.job(job_id, working_dir, None if missing is None else len(missing)))
        except ServiceFailed:
            if not await _has(jobs, job_id):
                submitting.job_id = None
                raise
        except JobConflict:  # an answer was lost on its way: nobody else has this id
            return

    async def _followed(self, jobs: RayJobs, job_id: str, *, is_counting: bool) -> Ending:
        wanted = None if self.batch.problems is None else frozenset(problem.id for problem in self.batch.problems)
        return await self.submitting.followed(
            jobs,
            job_id,
            sink=self.sink,
            tally=self.tally,
            known=self.known,
            wanted=wanted,
            is_counting=is_counting,
        )

    def _is_done(self) -> bool:
        return self.batch.missing(frozenset(self.known)) == []

    def _nothing_to_do(self) -> int:
        self.submitting.report(self.tally, "SUCCEEDED")
        return exit_code_of(self.tally)


class _New:
    """Passes on the rows that a file does not hold."""

    def __init__(self, sink: ResultSink) -> None:
        self._sink = sink
        self._held = set(sink.rows) if isinstance(sink, ResultFile) else set()

    def write(self, row: Json) -> None:
        """Adds a row, unless the file held it before."""
        if str(row["id"]) not in self._held:
            self._sink.write(row)


async def _has(jobs: RayJobs, job_id: str) -> bool:
    """Whether a job was taken although its submission seemed to fail."""
    try:
        await jobs.state(job_id)
    except (UnknownName, ServiceFailed):
        return False
    return True


def exit_code_of(tally: Tally) -> int:
    """Of a batch that was run to its end."""
    return 0 if tally.num_answered == tally.num_problems else NO_ANSWER


def check_ours(state: JobState) -> None:
    """Refuses jobs that were not made here.

    Raises:
        InvalidRequest: It is another job.
    """
    if state.metadata.get("made_by") != MADE_BY:
        raise InvalidRequest(
            f"job {state.id!r} was not submitted by ttc submit; use: ray job logs --follow {state.id}, or ray job stop",
            field="job",
            value=state.id,
        )


class _Told:
    """Tells people what a job says and how it stands, once each."""

    def __init__(self, job_id: str, *, is_quiet: bool) -> None:
        self._job_id = job_id
        self._is_quiet = is_quiet
        self._status = ""

    def line(self, text: str) -> None:
        """A line of the job's own output."""
        if not self._is_quiet and not any(words in text for words in _SETTING_UP):
            print(printable(text, is_line=True), file=sys.stderr, flush=True)

    def state(self, state: JobState) -> None:
        """How it stands now."""
        if state.status == self._status or self._is_quiet:
            return
        self._status = state.status
        if state.status == "PENDING":
            print(f"job {self._job_id} waits for its turn", file=sys.stderr, flush=True)
        elif state.status == "RUNNING":
            print(f"job {self._job_id} runs", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _leaving() -> Iterator[list[int]]:
    """Cancels the current task on SIGINT and SIGTERM; gives the numbers of those that came."""
    came: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def handle(number: int) -> None:
        came.append(number)
        task.cancel()

    handled: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not on this platform or thread
            loop.add_signal_handler(number, handle, number)
            handled.append(number)
    try:
        yield came
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
