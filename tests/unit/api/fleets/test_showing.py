"""What ``ttc fleet`` shows of models."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO

from rich.console import Console

from orchestrator.api.fleets.showing import status_table
from orchestrator.engine_health import EngineHealth
from orchestrator.workers.ray.fleet_status import READY, STARTING, ModelStatus

BUSY = EngineHealth(
    live_sequences=7,
    waiting_sequences=3,
    kv_cells=200,
    resident_kv_cells=50,
    tokens_per_s=12.34,
    output_tokens=5678,
    prompt_tokens=100,
    cached_prompt_tokens=80,
)


def shown(*statuses: ModelStatus) -> list[list[str]]:
    """The table's cells, row by row."""
    console = Console(width=200, file=StringIO())
    with console.capture() as captured:
        console.print(status_table(statuses))
    return [line.split() for line in captured.get().splitlines()]


def test_a_model_is_shown_with_what_its_engines_count() -> None:
    counters = {name: value for name, value in asdict(BUSY).items() if isinstance(value, int | float)}
    status = ModelStatus(
        name="small", state=READY, target=2, replicas={"RUNNING": 2}, ongoing=4, engine=counters, num_ended=1
    )
    head, row = shown(status)
    cells = dict(zip(" ".join(head).replace("output tokens", "output").split(), row, strict=True))
    assert cells == {
        "model": "small",
        "state": "ready",
        "replicas": "2/2",
        "ongoing": "4",
        "sequences": "7",
        "waiting": "3",
        "KV": "25%",
        "tokens/s": "12.3",
        "output": "5,678",
        "cached": "80%",
        "ended": "1",
    }


def test_a_model_that_says_nothing_yet_has_no_shares() -> None:
    _, row = shown(ModelStatus(name="small", state=STARTING, target=1))
    assert row == ["small", "starting", "0/1", "0", "0", "0", "-", "0.0", "0", "-", "0"]
