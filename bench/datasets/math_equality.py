"""Whether two answers are mathematically equal, for callers in threads: the answer reader's comparison, blocking."""

from __future__ import annotations

import asyncio
import threading

from orchestrator.verifiers.answers import Reader, open_reader

_TIMEOUT_S = 10.0
"""Of one comparison; jobs that cannot wait use less, but a benchmark must not depend on how busy the machine is."""


class MathEquality:
    """Compares answers one at a time; from any thread that runs no event loop. Its worker process ends with it."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._turn = threading.Lock()  # the reader's pool serves one event loop at a time

    def __call__(self, left: str, right: str) -> bool:
        """Whether they are equal; False where that cannot be decided in time."""
        with self._turn:
            if self._reader is None:
                self._reader = open_reader("math", timeout_s=_TIMEOUT_S)
            return asyncio.run(self._reader.equivalent(left, right))
