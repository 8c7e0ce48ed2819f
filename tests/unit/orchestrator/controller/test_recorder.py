from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.controller import Recorder
from orchestrator.errors import LeaseLost, StoreFailed
from orchestrator.events import Event
from orchestrator.store import Change, JobState, JournalRow


class Journal:
    """A store that takes its time."""

    is_durable = True

    def __init__(self) -> None:
        self.rows: list[JournalRow] = []
        self.num_appends = 0
        self.num_writing = 0
        self.states: list[JobState | None] = []
        self.error: Exception | None = None
        self.pause_s = 0.01

    async def append(
        self, job_id: str, epoch: int, rows: Sequence[JournalRow], *, state: Any = None, result: Any = None
    ) -> None:
        self.num_writing += 1
        assert self.num_writing == 1, "one append at a time"
        await asyncio.sleep(self.pause_s)
        self.num_writing -= 1
        if self.error is not None:
            raise self.error
        assert not rows or rows[0].seq == len(self.rows), "positions follow each other"
        self.rows += rows
        self.states.append(state)
        self.num_appends += 1

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        return self.rows[after + 1 :]


def a_recorder(journal: Any, told: list[Event] | None = None) -> Recorder:
    publish = None if told is None else told.append
    return Recorder(journal, job_id="j", epoch=1, next_seq=0, publish=publish)


async def test_rows_that_are_noted_meanwhile_share_one_append() -> None:
    journal = Journal()
    recorder = a_recorder(journal)

    async def write(number: int) -> None:
        recorder.add("mark", {"n": number})
        await recorder.flush()

    async with asyncio.TaskGroup() as tasks:
        for number in range(50):
            tasks.create_task(write(number))
    assert [row.data["n"] for row in journal.rows] == list(range(50))
    assert journal.num_appends <= 2


async def test_watchers_are_told_once_rows_are_durable_and_in_order() -> None:
    journal, told = Journal(), []
    recorder = a_recorder(journal, told)
    recorder.add("begin", {})
    assert told == []
    await recorder.flush()
    await recorder.write("done", {"a": 0})
    assert [(event.kind, event.seq) for event in told] == [("begin", 0), ("done", 1)]


async def test_a_writer_that_is_cancelled_loses_no_row_and_spoils_no_position() -> None:
    journal, told = Journal(), []
    recorder = a_recorder(journal, told)
    task = asyncio.create_task(recorder.write("mark", {"n": 0}))
    await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await recorder.write("mark", {"n": 1})
    assert [row.data["n"] for row in journal.rows] == [0, 1]
    assert len(told) == 2


async def test_a_writer_that_is_cancelled_while_it_waits_for_its_turn_leaves_its_row_to_the_next() -> None:
    journal = Journal()
    recorder = a_recorder(journal)
    first = asyncio.create_task(recorder.write("mark", {"n": 0}))
    second = asyncio.create_task(recorder.write("mark", {"n": 1}))
    await asyncio.sleep(0.002)
    second.cancel()
    await first
    await recorder.flush()
    assert [row.data["n"] for row in journal.rows] == [0, 1]


@pytest.mark.parametrize("error", [StoreFailed("full"), LeaseLost("gone", job_id="j", epoch=1)])
async def test_a_failure_is_final(error: Exception) -> None:
    journal = Journal()
    recorder = a_recorder(journal)
    journal.error = error
    with pytest.raises(type(error)):
        await recorder.write("mark", {})
    journal.error = None
    with pytest.raises(type(error)):
        await recorder.write("mark", {})
    assert journal.rows == []


async def test_a_foreign_exception_of_a_store_is_a_store_failure() -> None:
    journal = Journal()
    journal.error = TypeError("not JSON")
    with pytest.raises(StoreFailed, match="not JSON"):
        await a_recorder(journal).write("mark", {})


async def test_letting_go_drops_what_is_not_durable() -> None:
    journal = Journal()
    recorder = a_recorder(journal)
    await recorder.write("mark", {"n": 0})
    recorder.add("mark", {"n": 1})
    await recorder.let_go(JobState.QUEUED)
    assert len(journal.rows) == 1
    assert journal.states[-1] is JobState.QUEUED


async def test_a_state_is_written_without_rows_too() -> None:
    journal = Journal()
    recorder = a_recorder(journal)
    await recorder.flush()
    assert journal.num_appends == 0
    await recorder.flush(state=JobState.SUCCEEDED, result={})
    assert journal.states == [JobState.SUCCEEDED]


async def test_a_patient_recorder_waits_for_the_end_only_and_keeps_the_order() -> None:
    journal, told = Journal(), list[Event]()
    recorder = Recorder(journal, job_id="j", epoch=1, next_seq=0, publish=told.append, waits=False)
    for number in range(20):
        await recorder.write("mark", {"n": number})
    assert journal.rows == []
    recorder.add("final", {})
    await recorder.flush(state=JobState.SUCCEEDED, result={})
    assert [row.seq for row in journal.rows] == list(range(21))
    assert [event.seq for event in told] == list(range(21))
    assert journal.num_appends <= 2
    assert journal.states[-1] is JobState.SUCCEEDED


async def test_a_patient_recorder_that_lets_go_at_once_has_written_nothing_else() -> None:
    journal = Journal()
    recorder = Recorder(journal, job_id="j", epoch=1, next_seq=0, waits=False)
    await recorder.write("mark", {"n": 0})
    await recorder.let_go(JobState.CANCELLED, final={"result": {}})
    await asyncio.sleep(0.05)
    assert [(row.seq, row.kind) for row in journal.rows] == [(0, "final")]


def a_creating_recorder(journal: Journal, created: list[Change]) -> Recorder:
    async def create(first: Change) -> None:
        if journal.error is not None:
            raise journal.error
        created.append(first)
        journal.rows += first.rows

    return Recorder(journal, job_id="j", epoch=1, next_seq=0, waits=False, create=create)  # type: ignore[arg-type]  # a fake


async def test_a_quick_job_is_created_with_its_end_in_one_write() -> None:
    journal, created = Journal(), list[Change]()
    recorder = a_creating_recorder(journal, created)
    await recorder.flush()
    await recorder.write("mark", {"n": 0})
    recorder.add("final", {})
    await recorder.flush(state=JobState.SUCCEEDED, result={"n": 1})
    await asyncio.sleep(0.05)
    assert [(len(first.rows), first.state, first.result) for first in created] == [(2, JobState.SUCCEEDED, {"n": 1})]
    assert journal.num_appends == 0


async def test_a_job_that_takes_longer_is_created_meanwhile_even_if_it_has_nothing_to_say() -> None:
    journal, created = Journal(), list[Change]()
    recorder = a_creating_recorder(journal, created)
    await recorder.flush()
    await asyncio.sleep(0.1)
    assert created == [Change([])]
    await recorder.write("mark", {"n": 0})
    await recorder.flush(state=JobState.SUCCEEDED, result={})
    assert (len(created), journal.num_appends, journal.states) == (1, 1, [JobState.SUCCEEDED])


async def test_a_job_that_cannot_be_created_has_failed_of_it() -> None:
    journal, created = Journal(), list[Change]()
    recorder = a_creating_recorder(journal, created)
    journal.error = StoreFailed("full")
    await recorder.flush()
    await asyncio.sleep(0.1)
    journal.error = None
    with pytest.raises(StoreFailed, match="full"):
        await recorder.flush(state=JobState.SUCCEEDED, result={})
    assert (created, journal.rows) == ([], [])


async def test_a_patient_recorder_raises_what_went_wrong_in_the_background() -> None:
    journal = Journal()
    recorder = Recorder(journal, job_id="j", epoch=1, next_seq=0, waits=False)
    journal.error = LeaseLost("gone", job_id="j", epoch=1)
    await recorder.write("mark", {})
    await asyncio.sleep(0.05)
    with pytest.raises(LeaseLost):
        await recorder.write("mark", {})
    with pytest.raises(LeaseLost):
        await recorder.flush(state=JobState.SUCCEEDED, result={})
    assert journal.rows == []


async def test_a_patient_recorder_that_lets_go_writes_no_row_twice() -> None:
    journal = Journal()
    recorder = Recorder(journal, job_id="j", epoch=1, next_seq=0, waits=False)
    await recorder.write("mark", {"n": 0})
    while not journal.num_appends:  # noqa: ASYNC110  # it has no event for that
        await asyncio.sleep(0.001)
    await recorder.write("mark", {"n": 1})
    await recorder.let_go(JobState.CANCELLED, final={"result": {}})
    await asyncio.sleep(0.05)
    assert [row.kind for row in journal.rows] == ["mark", "final"]
    assert journal.states[-1] is JobState.CANCELLED
