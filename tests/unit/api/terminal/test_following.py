"""Following a job whose cluster goes away for good, or for a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.terminal.batch import Tally
from orchestrator.api.terminal.following import Follower
from orchestrator.api.terminal.job_log import JobLogWriter
from orchestrator.errors import ServiceFailed
from orchestrator.workers.ray.jobs import JobState, RayJobs

GONE = ServiceFailed("no Ray job server answers")


class Rows:
    def __init__(self) -> None:
        self.ids: list[str] = []

    def write(self, row: dict[str, Any]) -> None:
        self.ids.append(row["id"])


class Scripted(RayJobs):
    """A job server that answers from lists: states, and what each reading of the log gives, errors included."""

    def __init__(self, states: list[str | ServiceFailed], readings: list[list[str | ServiceFailed]]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.states, self.readings = states, readings

    async def state(self, job_id: str) -> JobState:
        answer = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(answer, ServiceFailed):
            raise answer
        return JobState(id=job_id, status=answer, message="", exit_code=0, metadata={})

    async def log(self, job_id: str) -> AsyncIterator[str]:
        for part in self.readings.pop(0) if self.readings else [GONE]:
            if isinstance(part, ServiceFailed):
                raise part
            yield part


def log_of(path: Path, *records: dict[str, Any]) -> str:
    path.touch()
    with path.open("ab") as file:
        writer = JobLogWriter("ttc-1", fd=file.fileno())
        for record in records:
            writer.write_record(**record)
    return path.read_text()


def follower(jobs: RayJobs, rows: Rows, *, patience_s: float = 60.0) -> Follower:
    return Follower(
        jobs,
        "ttc-1",
        sink=rows,
        tally=Tally(2),
        known=set(),
        on_line=lambda _: None,
        on_state=lambda _: None,
        patience_s=patience_s,
    )


def row(row_id: str) -> dict[str, Any]:
    return {"kind": "row", "row": {"id": row_id, "status": "ok"}}


async def test_a_cluster_that_stays_away_is_given_up_after_the_patience() -> None:
    with pytest.raises(ServiceFailed, match="no Ray job server"):
        await follower(Scripted([GONE], []), Rows(), patience_s=-1).follow()


async def test_rows_that_came_before_a_connection_broke_are_taken_once(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", row("1"), row("2"), {"kind": "end"})
    first = log.index("\n") + 1
    jobs = Scripted(["RUNNING", "RUNNING", "SUCCEEDED"], [[log[:first], log[first : first + 30], GONE], [log]])
    rows = Rows()
    ending = await follower(jobs, rows).follow()
    assert rows.ids == ["1", "2"]
    assert ending.is_complete
    assert ending.failure(way_out="") is None


async def test_a_log_that_is_gone_with_its_node_is_not_waited_for(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", row("1"))
    rows = Rows()
    ending = await follower(Scripted(["FAILED"], [[log, GONE]]), rows).follow()
    assert rows.ids == ["1"]
    failure = ending.failure(way_out="the way out")
    assert failure is not None
    assert "the way out" in failure.message


async def test_a_refusal_is_not_tried_again() -> None:
    refused = ServiceFailed("wants a token", is_retryable=False)
    with pytest.raises(ServiceFailed, match="wants a token"):
        await follower(Scripted([refused], []), Rows()).follow()
