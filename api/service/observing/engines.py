"""What engines count of themselves (`EngineHealth`), brought into the metrics every few seconds."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from orchestrator.api.service.observing.metrics import DIRECTORY_VARIABLE, Metrics
from orchestrator.engine import Engine
from orchestrator.engine_health import EngineHealth

_LOG = logging.getLogger(__name__)

_EVERY_S = 5.0
_PATIENCE_S = 5.0
_OF_OTHERS = frozenset({"openai", "reward"})
"""Engines whose health is a request to somebody's server, and which know no more than our own counts."""
_FILE = "engines.lock"


class EngineWatch:
    """Looks at the engines of one process.

    Counters begin with what is seen at the first look, which is when the process begins to serve. An engine of a
    cluster tells every process the same; of processes that share their metrics one speaks for it.

    Args:
        metrics: Where it is told.
        engines: By the names of their models.
        every_s: How often.
    """

    def __init__(self, metrics: Metrics, engines: Mapping[str, Engine], *, every_s: float = _EVERY_S) -> None:
        self._metrics = metrics
        self._engines = {name: engine for name, engine in engines.items() if engine.describe().engine not in _OF_OTHERS}
        self._every_s = every_s
        self._last: dict[str, EngineHealth] = {}
        self._speaker: IO[str] | None = None

    async def run(self) -> None:
        """Looks again and again, until it is cancelled."""
        try:
            while self._engines:
                await self.look()
                await asyncio.sleep(self._every_s)
        finally:
            if self._speaker is not None:
                self._speaker.close()

    async def look(self) -> None:
        """Looks once; an engine that does not answer keeps its last values."""
        for name, engine in self._engines.items():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    health = await engine.health()
            except Exception as error:  # noqa: BLE001  # an engine may raise anything
                _LOG.warning("an engine does not say how it is: %s", type(error).__name__, extra={"model": name})
                continue
            if not health.is_shared or self._speaks():
                self._tell(name, engine.describe().engine, health)

    def _speaks(self) -> bool:
        """Whether this process speaks for engines that others see, too: the first one does, until it ends."""
        if DIRECTORY_VARIABLE not in os.environ or self._speaker is not None:
            return True
        import fcntl  # there is none for Windows, where processes cannot share a port either

        file = (Path(os.environ[DIRECTORY_VARIABLE]) / _FILE).open("w", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._speaker = file
        return True

    def _tell(self, model: str, engine: str, health: EngineHealth) -> None:
        metrics, last = self._metrics, self._last.get(model, health)
        self._last[model] = health
        sequences, cells = metrics.engine_sequences, metrics.engine_kv_tokens
        sequences.labels(model, engine, "running").set(health.running_sequences)
        sequences.labels(model, engine, "waiting").set(health.waiting_sequences)
        if health.kv_cells:
            cells.labels(model, engine, "used").set(health.resident_kv_cells)
            cells.labels(model, engine, "free").set(health.kv_cells - health.resident_kv_cells)

        def grown(name: str) -> int:
            now: int = getattr(health, name)
            before: int = getattr(last, name)
            return now - before if now >= before else now  # the engine has begun anew

        hits, accepted = grown("prefix_hit_tokens"), grown("accepted_tokens")
        for metric, label, amount in (
            (metrics.engine_steps, (), grown("decode_steps")),
            (metrics.engine_sampled_tokens, (), grown("sampled_tokens")),
            (metrics.engine_preemptions, (), grown("preemptions")),
            (metrics.engine_prefix_tokens, ("hit",), hits),
            (metrics.engine_prefix_tokens, ("miss",), grown("prefix_query_tokens") - hits),
            (metrics.engine_drafts, (), grown("drafts")),
            (metrics.engine_draft_tokens, ("accepted",), accepted),
            (metrics.engine_draft_tokens, ("rejected",), grown("draft_tokens") - accepted),
        ):
            metric.labels(model, engine, *label).inc(max(0, amount))
