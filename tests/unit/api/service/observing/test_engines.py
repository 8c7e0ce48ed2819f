"""What engines count of themselves, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.api.service.observing import Metrics, Observing
from orchestrator.api.service.observing.engines import EngineWatch
from orchestrator.api.service.observing.metrics import DIRECTORY_VARIABLE
from orchestrator.engine import ModelDescription
from orchestrator.engine_health import EngineHealth
from orchestrator.fleet import Fleet
from orchestrator.testing.scripted import ScriptedEngine, arithmetic

BUSY = EngineHealth(
    running_sequences=3,
    waiting_sequences=2,
    kv_cells=100,
    resident_kv_cells=40,
    decode_steps=7,
    sampled_tokens=20,
    preemptions=1,
    prefix_query_tokens=50,
    prefix_hit_tokens=30,
    drafts=4,
    draft_tokens=12,
    accepted_tokens=9,
)


class Counting(ScriptedEngine):
    """Says of itself what it is told to."""

    def __init__(self, health: EngineHealth, *, engine: str = "vllm") -> None:
        super().__init__(arithmetic(accuracy=1.0))
        self.shown: EngineHealth | Exception = health
        self._engine = engine
        self.num_asked = 0

    def describe(self) -> ModelDescription:
        return replace(super().describe(), engine=self._engine)

    async def health(self) -> EngineHealth:
        self.num_asked += 1
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown


def told(metrics: Metrics) -> dict[str, float]:
    """Values of the engines' series, by name and the labels that differ."""
    return {
        " ".join([sample.name, *(sample.labels[label] for label in ("state", "outcome") if label in sample.labels)]): (
            sample.value
        )
        for family in text_string_to_metric_families(metrics.exposition(None).decode())
        for sample in family.samples
        if sample.name.startswith("ttc_engine_") and sample.labels.get("model") == "small"
    }


async def test_what_is_so_now_is_shown_and_totals_grow_by_what_was_added() -> None:
    metrics, engine = Metrics(), Counting(EngineHealth())
    watch = EngineWatch(metrics, {"small": engine})
    await watch.look()
    engine.shown = BUSY
    await watch.look()
    assert told(metrics) == {
        "ttc_engine_sequences running": 3,
        "ttc_engine_sequences waiting": 2,
        "ttc_engine_kv_tokens used": 40,
        "ttc_engine_kv_tokens free": 60,
        "ttc_engine_steps_total": 7,
        "ttc_engine_sampled_tokens_total": 20,
        "ttc_engine_preemptions_total": 1,
        "ttc_engine_prefix_tokens_total hit": 30,
        "ttc_engine_prefix_tokens_total miss": 20,
        "ttc_engine_drafts_total": 4,
        "ttc_engine_draft_tokens_total accepted": 9,
        "ttc_engine_draft_tokens_total rejected": 3,
    }
    engine.shown = replace(BUSY, decode_steps=9, running_sequences=0)
    await watch.look()
    after = told(metrics)
    assert (after["ttc_engine_steps_total"], after["ttc_engine_drafts_total"]) == (9, 4)
    assert after["ttc_engine_sequences running"] == 0


async def test_an_engine_that_was_busy_before_is_counted_from_the_first_look_and_one_that_begins_anew_goes_on() -> None:
    metrics, engine = Metrics(), Counting(BUSY)
    watch = EngineWatch(metrics, {"small": engine})
    await watch.look()
    assert told(metrics)["ttc_engine_steps_total"] == 0
    engine.shown = EngineHealth(decode_steps=2)
    await watch.look()
    assert told(metrics)["ttc_engine_steps_total"] == 2


async def test_an_engine_that_cannot_say_how_it_is_does_not_hide_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, silent, engine = Metrics(), Counting(BUSY), Counting(BUSY)
    silent.shown = RuntimeError("private words")
    await EngineWatch(metrics, {"large": silent, "small": engine}).look()
    assert told(metrics)["ttc_engine_sequences running"] == 3
    assert "private words" not in caplog.text
    assert caplog.records[0].__dict__["model"] == "large"


async def test_servers_of_others_are_not_asked_again_and_again() -> None:
    behind_http = Counting(BUSY, engine="openai")
    async with asyncio.timeout(5):
        await EngineWatch(Metrics(), {"small": behind_http}).run()
    assert behind_http.num_asked == 0


async def test_a_process_watches_its_fleet_as_long_as_it_serves() -> None:
    observing, engine = Observing(), Counting(BUSY)

    async def serve() -> None:
        async with observing.watching(Fleet({"small": engine})):
            async with asyncio.timeout(5):
                while not engine.num_asked:  # noqa: ASYNC110  # engines have no event for it
                    await asyncio.sleep(0)
            raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await serve()
    assert told(observing.metrics)["ttc_engine_kv_tokens used"] == 40
    (left,) = asyncio.all_tasks()
    assert left is asyncio.current_task(), "nothing goes on looking"


_PROCESS = """
import asyncio, sys
from dataclasses import replace
from orchestrator.api.service.observing import Metrics
from orchestrator.api.service.observing.engines import EngineWatch
from orchestrator.engine_health import EngineHealth
from orchestrator.testing.scripted import ScriptedEngine, arithmetic

class Shared(ScriptedEngine):
    steps = 0
    async def health(self):
        return EngineHealth(is_shared=True, decode_steps=self.steps, running_sequences=3)

async def main():
    metrics, engine = Metrics(), Shared(arithmetic(accuracy=1.0))
    watch = EngineWatch(metrics, {"small": engine})
    await watch.look()
    engine.steps = 5
    await watch.look()
    print(metrics.exposition(None).decode(), flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""


def test_of_processes_that_see_the_same_cluster_one_speaks(tmp_path: Path) -> None:
    environment = {**os.environ, DIRECTORY_VARIABLE: str(tmp_path)}

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _PROCESS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def shown(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        lines = []
        while not any("ttc_engine_steps_total{" in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended without a word"
        rest = [line for line in lines if line.startswith("ttc_engine_steps_total{")]
        return rest[0].split()[-1]

    first = started()
    try:
        assert shown(first) == "5.0"
        second = started()
        try:
            assert shown(second) == "5.0", "not counted twice"
        finally:
            second.communicate("\n", timeout=30)
    finally:
        first.communicate("\n", timeout=30)
