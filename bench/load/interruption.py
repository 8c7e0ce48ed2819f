"""Ctrl-C and SIGTERM while load is sent: the run is stopped, and what was seen is still reported."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

_SAME_SIGNAL_S = 1.0
_STDERR = 2


class Interruption:
    """The first SIGINT or SIGTERM stops the run; one that comes a second later, or before the run, ends the command.

    Within a second it is taken for the same one: GNU ``timeout`` signals a process, and then the group that it is in.

    Attributes:
        signal_number: The first signal that came; None if none did.
        stop: What stops the run; None before there is one.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.stop: Callable[[], object] | None = None
        self._came_s = 0.0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catches signals for as long as the context is open."""
        old = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread
                old[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.stop is None or (self.signal_number is not None and now_s - self._came_s > _SAME_SIGNAL_S):
            raise KeyboardInterrupt
        if self.signal_number is None:
            self.signal_number, self._came_s = number, now_s
            with contextlib.suppress(OSError):  # print is not safe here: the signal may have come in the middle of one
                os.write(_STDERR, b"\nstopping; figures are of what was seen until now\n")
            self.stop()
