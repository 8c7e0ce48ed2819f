"""How a running job is shown on stderr: live bars on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, TextIO

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.watch import JobWatch, Spend

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_REFRESH_S = 0.125
_LINE_EVERY_S = 5.0
_MAX_ANSWERS = 6
_BAR_WIDTH = 24


@contextlib.asynccontextmanager
async def showing(watch: JobWatch, *, is_quiet: bool, stream: TextIO | None = None) -> AsyncIterator[None]:
    """Shows the job that ``watch`` follows for as long as the context is open.

    Args:
        watch: Follows the job.
        is_quiet: Show nothing.
        stream: Where; stderr unless given.
    """
    stream = sys.stderr if stream is None else stream
    if is_quiet:
        yield
    elif stream.isatty():
        async with _bars(watch, stream):
            yield
    else:
        async with repeating(lambda: print(line(watch), file=stream, flush=True), every_s=_LINE_EVERY_S):
            yield


@contextlib.asynccontextmanager
async def _bars(watch: JobWatch, stream: TextIO) -> AsyncIterator[None]:
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(file=stream), auto_refresh=False, transient=True)
    with live:
        async with repeating(lambda: live.update(picture(watch), refresh=True), every_s=_REFRESH_S):
            yield


@contextlib.asynccontextmanager
async def repeating(show: Callable[[], object], *, every_s: float) -> AsyncIterator[None]:
    """Calls ``show`` every so often, from the event loop."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(every_s)
            show()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):  # OSError: nobody reads stderr any more
            await task


def line(watch: JobWatch) -> str:
    """The state of a job in one line."""
    parts = [f"{watch.num_finished} samples done, {watch.num_running} running"]
    growth, votes = watch.growth, watch.votes()
    if growth.is_search:
        parts.append(wording.search_state(growth))
        if growth.last_choice is not None:
            parts.append(wording.last_choice(growth.last_choice))
        parts.append(f"KV tokens {wording.kv_saved(growth.unique_kv_tokens, growth.logical_kv_tokens)}")
    if votes:
        parts.append(f"leading: {wording.brief(votes[0][0], 30)} ({votes[0][1]} of {sum(n for _, n in votes)} votes)")
    if watch.answer is not None:
        parts.append(f"best so far: {wording.brief(watch.answer, 30)}")
    parts += [_spend_words(spend) for spend in watch.spending() if spend.cap != "max_seconds"]
    if not any(spend.cap == "max_output_tokens" for spend in watch.spending()):
        parts.append(f"{watch.output_tokens:,} output tokens")
    parts.append(wording.seconds(watch.elapsed_s))
    return " · ".join(parts)


def picture(watch: JobWatch) -> RenderableType:
    """The state of a job as bars."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        (watch.policy, "bold"),
        f"  {watch.num_finished} samples done, {watch.num_running} running",
        f"  {wording.seconds(watch.elapsed_s)}  {watch.tokens_per_s:,.0f} tokens/s",
        (f"  job {watch.job_id}" if watch.job_id else "", "dim"),
    )
    bars = Table.grid(padding=(0, 1))
    bars.add_column(max_width=32, no_wrap=True)
    bars.add_column(width=_BAR_WIDTH)
    bars.add_column(no_wrap=True)
    _add_votes(bars, watch)
    growth = watch.growth
    if growth.is_search and growth.logical_kv_tokens:
        share = growth.unique_kv_tokens / growth.logical_kv_tokens
        words = wording.kv_saved(growth.unique_kv_tokens, growth.logical_kv_tokens)
        bars.add_row("KV tokens", _bar(share, "magenta"), words)
    spending = watch.spending()
    for spend in spending:
        share = spend.spent / spend.limit
        words = f"{wording.amount(spend.cap, spend.spent)} of {wording.amount(spend.cap, spend.limit)}"
        bars.add_row(wording.CAPS[spend.cap], _bar(share, "yellow" if share < 0.9 else "red"), words)
    if not any(spend.cap == "max_output_tokens" for spend in spending):
        bars.add_row("output tokens", "", f"{watch.output_tokens:,}")
    return Group(head, *_search_lines(watch), bars)


def _search_lines(watch: JobWatch) -> list[RenderableType]:
    """What a tree search does, and the best it has found."""
    from rich.text import Text

    lines: list[RenderableType] = []
    growth = watch.growth
    if growth.is_search:
        doing = f" · {wording.brief(watch.doing)}" if watch.doing and not watch.num_running else ""
        lines.append(Text(wording.search_state(growth) + doing))
        if growth.last_choice is not None:
            lines.append(
                Text(wording.last_choice(growth.last_choice, width=90), style="dim", no_wrap=True, overflow="ellipsis")
            )
        best = "none yet" if watch.answer is None else wording.brief(watch.answer, 60)
        lines.append(Text.assemble("best so far: ", (best, "dim" if watch.answer is None else "bold green")))
    return lines


def _add_votes(bars: Table, watch: JobWatch) -> None:
    from rich.text import Text

    votes = watch.votes()
    num_votes = sum(count for _, count in votes) or 1
    for place, (answer, count) in enumerate(votes[:_MAX_ANSWERS]):
        style = "bold green" if place == 0 else "cyan"
        words = f"{count} vote{'s' if count > 1 else ''}"
        bars.add_row(Text(wording.brief(answer, 32), style=style), _bar(count / num_votes, style), words)
    if len(votes) > _MAX_ANSWERS:
        bars.add_row(Text(f"{len(votes) - _MAX_ANSWERS} other answers", style="dim"), "", "")
    if watch.num_silent:
        bars.add_row(Text("no answer", style="dim"), "", f"{watch.num_silent}")


def _spend_words(spend: Spend) -> str:
    spent, limit = wording.amount(spend.cap, spend.spent), wording.amount(spend.cap, spend.limit)
    words = "" if spend.cap in wording.UNITS else f" {wording.CAPS[spend.cap]}"
    return f"{spent} of {limit}{words}"


def _bar(share: float, style: str) -> RenderableType:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=1.0, completed=min(1.0, share), width=_BAR_WIDTH, complete_style=style)
