"""Would requests that are sent now be served: the store can be written, and the models answer."""

from __future__ import annotations

import asyncio
import time

from orchestrator.errors import TtcError
from orchestrator.in_process import Orchestrator

_PROBE_S = 2.0
_KEPT_S = 1.0
"""What the store said is told again for so long: whoever asks, and however often, makes it write once a second."""


class Readiness:
    """Asks the store and the models of one process.

    Args:
        orchestrator: Open.
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._asking = asyncio.Lock()  # held while the store is asked, so that one answer is there for all who wait
        self._asked_at = -_KEPT_S
        self._of_store: list[str] = []

    async def problems(self) -> list[str]:
        """Why they would not be served; empty if they would be."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= _KEPT_S:
                self._of_store = await self._store_problems()
                self._asked_at = time.monotonic()
            problems = list(self._of_store)
        for engine in self._orchestrator.fleet:
            name = engine.describe().name
            try:
                async with asyncio.timeout(_PROBE_S):
                    health = await engine.health()
            except Exception as error:  # noqa: BLE001  # an engine may raise anything
                problems.append(f"model {name}: {error}")
            else:
                if not health.is_ready:
                    problems.append(f"model {name}: {health.detail or 'not ready'}")
        return problems

    async def _store_problems(self) -> list[str]:
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._orchestrator.store.put_document("probe", "readyz", {"at": time.time()})
        except TimeoutError:
            return [f"store: no answer within {_PROBE_S:g} s"]
        except TtcError as error:
            return [f"store: {error}"]
        return []
