"""How a run over many problems is shown on stderr: a bar with the time left, or a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.batch import Tally
from orchestrator.api.terminal.display import repeating

_REFRESH_S = 0.2
_BAR_WIDTH = 16
_LINE_EVERY_S = 10.0


@contextlib.asynccontextmanager
async def showing_tally(tally: Tally, *, is_quiet: bool) -> AsyncIterator[None]:
    """Shows ``tally`` for as long as the context is open."""
    if is_quiet:
        yield
    elif sys.stderr.isatty():
        async with _bar(tally):
            yield
    else:
        started_at = time.monotonic()

        def show() -> None:
            words = f"{tally.num_done} of {tally.num_problems} problems{_accuracy(tally)} · {_spent(tally)}"
            print(f"{words} · {wording.seconds(time.monotonic() - started_at)}", file=sys.stderr, flush=True)

        async with repeating(show, every_s=_LINE_EVERY_S):
            yield


@contextlib.asynccontextmanager
async def _bar(tally: Tally) -> AsyncIterator[None]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        BarColumn(bar_width=_BAR_WIDTH),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # results that go to a file must not be taken for the terminal's
    )
    task = progress.add_task("", total=tally.num_problems or None, completed=tally.num_skipped, words="")

    def show() -> None:
        words = f"{tally.output_tokens:,} tokens"
        if tally.usd:
            words += f" · {wording.dollars(tally.usd)}"
        if tally.accuracy is not None:
            words += f" · {tally.accuracy:.1%} right".replace("%", " %")
        progress.update(task, total=tally.num_problems or None, completed=tally.num_done, words=words, refresh=True)

    with progress:
        async with repeating(show, every_s=_REFRESH_S):
            yield


def summary(tally: Tally) -> str:
    """What came of it, in one line."""
    num_silent = tally.num_done - tally.num_answered - tally.num_errors
    words = f"{tally.num_problems} problems: {tally.num_answered} answered"
    if num_silent:
        words += f", {num_silent} without an answer"
    if tally.num_errors:
        words += f", {tally.num_errors} with errors"
    if tally.num_done < tally.num_problems:
        words += f", {tally.num_problems - tally.num_done} not done"
    if tally.num_skipped:
        words += f" ({tally.num_skipped} from an earlier run)"
    return f"{words}{_accuracy(tally)} · {_spent(tally)}"


def _spent(tally: Tally) -> str:
    spent = f"{tally.output_tokens:,} output tokens"
    return f"{spent}, {wording.dollars(tally.usd)}" if tally.usd else spent


def _accuracy(tally: Tally) -> str:
    if tally.accuracy is None:
        return ""
    return f" · {tally.num_correct} of {tally.num_checked} right ({tally.accuracy:.1%})".replace("%", " %")
