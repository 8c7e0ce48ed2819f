"""Ctrl-C and SIGTERM while jobs run: the first ends them with their best answers, the second leaves at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

_SHOW_CURSOR = "\x1b[?25h"


class Interruption:
    """Whether somebody asked to stop.

    Attributes:
        signal_number: The first signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def exit_code(self) -> int | None:
        """What to exit with, by convention; None if nothing came."""
        return None if self.signal_number is None else 128 + self.signal_number


@contextlib.contextmanager
def stopping_gently(stop: Callable[[], None]) -> Iterator[Interruption]:
    """Calls ``stop`` on the first SIGINT or SIGTERM; exits on the second. For use in a running event loop."""
    interruption = Interruption()
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if interruption.signal_number is not None:
            _leave(128 + number)
        interruption.signal_number = number
        with contextlib.suppress(OSError):
            print("stopping with the best answer so far; Ctrl-C again leaves at once", file=sys.stderr, flush=True)
        stop()

    handled: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not on this platform or thread
            loop.add_signal_handler(number, handle, number)
            handled.append(number)
    try:
        yield interruption
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _leave(exit_code: int) -> None:
    """Ends the process without waiting for threads; stores lose nothing they have acknowledged."""
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.flush()
    os._exit(exit_code)
