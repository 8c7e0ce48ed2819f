"""Runs jobs of scripted models in this process, with observers, as the runner does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import Orchestrator
from orchestrator.errors import TtcError
from orchestrator.events import Event
from orchestrator.job import Result
from orchestrator.runner import Observer
from orchestrator.store import JobRecord
from orchestrator.testing import ScriptedEngine, arithmetic

PROBLEM = "What is 3 + 4 * 2 - 5?"


async def run_watched(
    observers: Sequence[Observer],
    *,
    engine: ScriptedEngine | None = None,
    roles: dict[str, Any] | None = None,
    record: JobRecord | None = None,
    problem: str = PROBLEM,
    **options: Any,
) -> Result:
    """The result of one job; a failed one's, too."""
    results: list[Result] = []
    spec = {"policy": str(options.get("policy", "single")), "labels": options.get("labels", {})}
    watchers = [observer(record or JobRecord(id="job-1", spec=spec, tenant="acme", epoch=1)) for observer in observers]

    def on_event(event: Event) -> None:
        if event.kind == "result":
            results.append(event.data["result"])
        for watcher in watchers:
            watcher(event)

    async with Orchestrator(engine or ScriptedEngine(arithmetic(accuracy=1.0)), roles=roles) as ttc:
        try:
            await ttc.solve(problem, on_event=on_event, **options)
        except TtcError:
            assert results
    return results[0]
