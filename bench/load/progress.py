"""The line on stderr that says how a run is getting on: rewritten on a terminal, now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import TextIO

from orchestrator.api.terminal.display import repeating
from orchestrator.bench.load.exchange import Outcome
from orchestrator.bench.load.open_loop import OpenLoop

_TERMINAL_EVERY_S = 0.25
_LINE_EVERY_S = 5.0
_RECENT = 100


def line(loop: OpenLoop, num_planned: int) -> str:
    """The state of a run in one line."""
    outcomes = Counter(exchange.outcome for exchange in loop.exchanges)
    sent = len(loop.exchanges) - outcomes[Outcome.DROPPED]
    words = [f"{max(0.0, loop.elapsed_s):.0f} s", f"{sent} of {num_planned} sent", f"{loop.num_in_flight} in flight"]
    words += [f"{outcomes[Outcome.COMPLETED]} completed", f"{outcomes[Outcome.FAILED]} failed"]
    if outcomes[Outcome.DROPPED]:
        words.append(f"{outcomes[Outcome.DROPPED]} dropped")
    lags = [exchange.lag_s for exchange in loop.exchanges[-_RECENT:] if exchange.lag_s is not None]
    if lags:
        words.append(f"{max(lags) * 1000:.0f} ms late at most")
    return " · ".join(words)


@contextlib.asynccontextmanager
async def showing(
    loop: OpenLoop, num_planned: int, *, is_quiet: bool, stream: TextIO | None = None
) -> AsyncIterator[None]:
    """Shows the line for as long as the context is open.

    Args:
        loop: The run.
        num_planned: Requests of its plan.
        is_quiet: Show nothing.
        stream: Where; stderr unless given.
    """
    stream = sys.stderr if stream is None else stream
    if is_quiet:
        yield
        return
    is_terminal = stream.isatty()
    before, after = ("\r\x1b[2K", "") if is_terminal else ("", "\n")

    def show() -> None:
        print(before + line(loop, num_planned), end=after, file=stream, flush=True)

    try:
        async with repeating(show, every_s=_TERMINAL_EVERY_S if is_terminal else _LINE_EVERY_S):
            yield
    finally:
        with contextlib.suppress(OSError):
            print(before, end="", file=stream, flush=True)
