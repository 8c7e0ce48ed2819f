"""Whether two answers are mathematically equal, for callers that wait: the answer reader's comparison, blocking."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from orchestrator.verifiers.answers import Reader, open_reader

_TIMEOUT_S = 10.0
"""Of one comparison; jobs that cannot wait use less, but a benchmark must not depend on how busy the machine is."""


class MathEquality:
    """Compares answers one at a time, for callers in any thread, who wait. Its thread and its worker end with it."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        # the reader's pool serves one event loop at a time, and the caller may have one already
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="math-equality")

    def __call__(self, left: str, right: str) -> bool:
        """Whether they are equal; False where that cannot be decided in time."""
        return self._thread.submit(self._compared, left, right).result()

    def _compared(self, left: str, right: str) -> bool:
        if self._reader is None:
            self._reader = open_reader("math", timeout_s=_TIMEOUT_S)
        return asyncio.run(self._reader.equivalent(left, right))
