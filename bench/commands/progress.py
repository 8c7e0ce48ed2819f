"""How far a long command has come, on stderr: a bar with the time left, or a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.display import repeating

_REFRESH_S = 0.25
_LINE_EVERY_S = 10.0


class Standing(NamedTuple):
    """Where a command stands.

    Attributes:
        num_done: Of what it counts.
        total: All of them.
        words: What else there is to say.
    """

    num_done: int
    total: int
    words: str = ""


@contextlib.asynccontextmanager
async def showing_progress(unit: str, standing: Callable[[], Standing], *, is_quiet: bool) -> AsyncIterator[None]:
    """Shows ``standing()`` for as long as the context is open.

    Args:
        unit: What is counted, in the plural.
        standing: Asked each time.
        is_quiet: Show nothing.
    """
    if is_quiet:
        yield
    elif sys.stderr.isatty():
        async with _bar(unit, standing):
            yield
    else:
        started_at, first = time.monotonic(), standing().num_done

        def show() -> None:
            now, elapsed_s = standing(), time.monotonic() - started_at
            num_new = now.num_done - first
            left = f", {wording.seconds(elapsed_s * (now.total - now.num_done) / num_new)} left" if num_new else ""
            words = f" · {now.words}" if now.words else ""
            line = f"{now.num_done:,} of {now.total:,} {unit}{words} · {wording.seconds(elapsed_s)}{left}"
            print(line, file=sys.stderr, flush=True)

        async with repeating(show, every_s=_LINE_EVERY_S):
            yield


@contextlib.asynccontextmanager
async def _bar(unit: str, standing: Callable[[], Standing]) -> AsyncIterator[None]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn(unit),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    first = standing()
    task = bar.add_task("", total=first.total, completed=first.num_done, words="")

    def show() -> None:
        now = standing()
        bar.update(task, total=now.total, completed=now.num_done, words=now.words, refresh=True)

    with bar:
        async with repeating(show, every_s=_REFRESH_S):
            yield
