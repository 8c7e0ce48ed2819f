"""Runs one job in front of a person: shows it, ends it gently on Ctrl-C, prints what came of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import click

from orchestrator.api.terminal.display import showing
from orchestrator.api.terminal.report import headline, print_result
from orchestrator.api.terminal.shutdown import stopping_gently
from orchestrator.api.terminal.watch import JobWatch
from orchestrator.api.terminal.wording import printable
from orchestrator.errors import CallerError, TtcError
from orchestrator.events import Event, Publish
from orchestrator.in_process import Orchestrator
from orchestrator.job import Result
from orchestrator.store import JobState

NO_ANSWER = 5
"""Exit code of a job that ended well and has no answer (yet)."""


class Outcome(NamedTuple):
    """How a job ended, and with it the command.

    Attributes:
        result: Of the job.
        signal_exit: What to exit with if a signal ended it; None if none did.
        warning: What the result does not say of itself; empty if nothing.
    """

    result: Result
    signal_exit: int | None
    warning: str = ""


async def watched(
    orchestrator: Orchestrator,
    start: Callable[[Publish], Awaitable[Result]],
    *,
    is_quiet: bool,
    past: Iterable[Event] = (),
) -> Outcome:
    """Runs a job and shows it meanwhile.

    Args:
        orchestrator: Where it runs.
        start: Begins it, given who wants its events.
        is_quiet: Show nothing.
        past: Events of its earlier lives.

    Raises:
        TtcError: The job could not begin; once it runs, its failure is in the result.
    """
    watch = JobWatch()
    for event in past:
        watch.take(event)
    results: list[Result] = []
    with stopping_gently(orchestrator.cancel_all) as interruption:

        def note(event: Event) -> None:
            watch.take(event)
            if event.kind == "result":
                results.append(event.data["result"])
            elif interruption.signal_number is not None:  # it came before the job had begun
                orchestrator.cancel_all()

        async with showing(watch, is_quiet=is_quiet):
            try:
                results.append(await start(note))
            except TtcError:
                if not results:
                    raise
    return Outcome(results[-1], interruption.exit_code, _warning(watch))


def _warning(watch: JobWatch) -> str:
    if not watch.num_unscored:
        return ""
    reason = f": {printable(watch.score_problem, is_line=True)}" if watch.score_problem else ""
    return f"the verifier gave no score for {watch.num_unscored} texts{reason}"


def print_outcome(outcome: Outcome, *, as_json: bool, is_quiet: bool) -> int:
    """Prints a result to stdout.

    Returns:
        The exit code.

    Raises:
        TtcError: What made the job fail; it is printed by whoever prints errors.
    """
    result = outcome.result
    if isinstance(result.error, CallerError):  # nothing was spent that is worth a report
        raise result.error
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    elif is_quiet:
        if result.text is not None:
            click.echo(headline(result))
    else:
        print_result(result)
        if outcome.warning:
            click.echo(f"warning: {outcome.warning}", err=True)
        if result.state is JobState.WAITING:
            click.echo(f"\nanswer with: ttc jobs reply {result.job_id} TEXT; then: ttc jobs resume {result.job_id}")
    if outcome.signal_exit is not None:
        return outcome.signal_exit
    result.raise_for_error()
    return 0 if result.text is not None else NO_ANSWER
