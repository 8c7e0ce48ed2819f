"""An event loop whose clock jumps: sleeping costs no time, so latencies, deadlines and hangs are tested in moments.

Only for code that waits on the loop (scripted engines, timers); real sockets and threads do not share its clock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits while no file is ready: moves the loop's clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            return super().select(None)  # only another thread can wake the loop now
        self.now += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, from 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now


class VirtualClock:
    """The clock of the running loop, as an `orchestrator.clock.Clock`."""

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        """Virtual seconds, also for time stamps."""
        return self.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Lets virtual time pass."""
        await asyncio.sleep(seconds)


def run_virtual(work: Coroutine[Any, Any, _T]) -> _T:  # Any: what coroutines yield to the loop
    """`asyncio.run` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
