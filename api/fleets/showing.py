"""How ``ttc fleet`` shows findings and models, to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.api.fleets.findings import Finding, Level
from orchestrator.workers.ray.fleet_changes import Changes
from orchestrator.workers.ray.fleet_status import READY, ModelStatus

if TYPE_CHECKING:
    from rich.table import Table

_ORDER = (Level.ERROR, Level.WARNING, Level.NOTE)


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """One line each, errors first."""
    ordered = sorted(findings, key=lambda finding: _ORDER.index(finding.level))
    return [f"{finding.level.value}: {finding.place}: {finding.message}" for finding in ordered]


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = Counter(finding.level for finding in findings)
    if counts[Level.ERROR]:
        return f"does not fit: {_counted(counts[Level.ERROR], 'error')}"
    return "fits" + (f", with {_counted(counts[Level.WARNING], 'warning')}" if counts[Level.WARNING] else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def change_line(changes: Changes) -> str:
    """What is done to the cluster."""
    parts = [
        f"{verb} {', '.join(names)}"
        for verb, names in (
            ("start", changes.added),
            ("start anew", changes.changed),
            ("scale", changes.scaled),
            ("remove", changes.removed),
            ("leave as it is:", changes.same),
        )
        if names
    ]
    return "; ".join(parts) or "nothing to do"


def progress_line(status: ModelStatus) -> str:
    """How a model is on its way."""
    running = status.replicas.get("RUNNING", 0)
    line = f"{status.name}: {status.state}, {running} of {status.target} replicas"
    return f"{line}; {status.message}" if status.message else line


def status_table(statuses: Sequence[ModelStatus]) -> Table:
    """All models."""
    from rich.table import Table

    columns = ("model", "state", "replicas", "ongoing", "sequences", "waiting", "KV", "tokens/s", "output tokens")
    table = Table(*columns, "cached", "ended", box=None, pad_edge=False)
    for status in statuses:
        known = status.engine
        table.add_row(
            status.name,
            status.state,
            _replicas(status),
            str(status.ongoing),
            f"{known.get('live_sequences', 0):.0f}",
            f"{known.get('waiting_sequences', 0):.0f}",
            _share(known.get("resident_kv_cells", 0), known.get("kv_cells", 0)),
            f"{known.get('tokens_per_s', 0):.1f}",
            f"{known.get('output_tokens', 0):,.0f}",
            _share(known.get("cached_prompt_tokens", 0), known.get("prompt_tokens", 0)),
            str(status.num_ended),
        )
    return table


def problem_lines(statuses: Sequence[ModelStatus]) -> list[str]:
    """Why models are not ready."""
    return [f"{status.name}: {status.message}" for status in statuses if status.state != READY and status.message]


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _replicas(status: ModelStatus) -> str:
    running = status.replicas.get("RUNNING", 0)
    others = [f"{count} {state.lower()}" for state, count in sorted(status.replicas.items()) if state != "RUNNING"]
    return ", ".join([f"{running}/{status.target}", *others])
