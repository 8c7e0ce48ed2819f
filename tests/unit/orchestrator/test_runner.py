"""The runner of queued jobs: what it takes, keeps, ends, loses and gives back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.errors import StoreFailed
from orchestrator.events import Event
from orchestrator.job import stored_result
from orchestrator.journal import Recording
from orchestrator.runner import Runner
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores import MemoryStore
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

PROBLEM = "What is 3 + 4 * 2?"
SLOW = Latency(prefill_s=0.0, token_s=0.05)


class Bench:
    """An orchestrator with a runner that has been started."""

    def __init__(self, ttc: Orchestrator, runner: Runner, running: asyncio.Task[None], engine: ScriptedEngine) -> None:
        self.ttc, self.runner, self.running, self.engine = ttc, runner, running, engine
        self.store: Any = ttc.store

    async def queue(self, *, policy: str = "self_consistency", n: int = 2, **fields: Any) -> str:
        record = queued(self.ttc, policy=policy, n=n, **fields)
        await self.store.create(record)
        return record.id

    async def until(self, job_id: str, *states: JobState) -> JobRecord:
        async def is_there() -> bool:
            return (await self.store.get(job_id)).state in states

        await until(is_there)
        record: JobRecord = await self.store.get(job_id)
        return record

    async def ended(self, job_id: str) -> JobRecord:
        return await self.until(job_id, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


async def until(is_so: Callable[[], Awaitable[object]], *, within_s: float = 4.0) -> None:
    async with asyncio.timeout(within_s):
        while not await is_so():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


def queued(ttc: Orchestrator, *, policy: str = "self_consistency", n: int = 2, **fields: Any) -> JobRecord:
    params = {"n": n} if policy == "self_consistency" else {}
    asked = ttc.check(PROBLEM, policy=policy, params=params, budget="tokens=2000")
    return replace(ttc.new_record(asked), owner=None, **fields)


@asynccontextmanager
async def bench(
    *, store: Any = None, latency: Latency | None = None, concurrency: int = 2, lease_s: float = 60.0, **options: Any
) -> AsyncIterator[Bench]:
    engine = ScriptedEngine(arithmetic(accuracy=0.9), latency=latency or Latency(), tokens_per_delta=1)
    async with Orchestrator(engine, store=store or MemoryStore()) as ttc:
        runner = Runner(ttc, concurrency=concurrency, lease_s=lease_s, **options)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(runner.run())
            try:
                yield Bench(ttc, runner, running, engine)
            finally:
                if not running.done():
                    await runner.drain(0.0)


async def test_a_queued_job_is_run_to_its_end() -> None:
    async with bench() as here:
        record = await here.ended(await here.queue())
    result = stored_result(record)
    assert result is not None
    assert (record.state, result.text, record.epoch) == (JobState.SUCCEEDED, "11", 1)


async def test_no_more_jobs_run_at_once_than_the_concurrency() -> None:
    most = 0
    async with bench(latency=Latency(token_s=0.002), concurrency=2) as here:
        ids = [await here.queue() for _ in range(6)]
        async with asyncio.timeout(8):
            while not all([(await here.store.get(job_id)).state.is_terminal for job_id in ids]):
                most = max(most, len(here.ttc.running))
                await asyncio.sleep(0.001)
    assert most == 2


async def test_a_job_of_higher_priority_is_run_first_and_then_the_one_that_is_due_first() -> None:
    order: list[str] = []

    def observer(record: JobRecord) -> Any:
        order.append(record.key_id)
        return lambda event: None

    store = MemoryStore()
    async with Orchestrator(ScriptedEngine(arithmetic()), store=store) as ttc:
        soon = time.time() + 500
        await store.create(queued(ttc, key_id="late", due_at=soon + 50))
        await store.create(queued(ttc, key_id="early", due_at=soon))
        await store.create(queued(ttc, key_id="urgent", priority=3))
        await store.create(queued(ttc, key_id="whenever"))
    async with bench(store=store, concurrency=1, observers=[observer]) as here:
        for record in await store.list_jobs():
            await here.ended(record.id)
    assert order == ["urgent", "early", "late", "whenever"]


async def test_the_lease_of_a_silent_job_is_renewed() -> None:
    async with bench(latency=Latency(prefill_s=0.9), lease_s=0.3) as here:
        job_id = await here.queue(n=1)
        await here.until(job_id, JobState.RUNNING)
        thieves = 0
        while not (await here.store.get(job_id)).state.is_terminal:
            thieves += await here.store.take("elsewhere:1:x", lease_s=9) is not None
            await asyncio.sleep(0.02)
        record = await here.store.get(job_id)
    assert thieves == 0
    assert (record.state, record.epoch) == (JobState.SUCCEEDED, 1)


async def test_a_lost_lease_stops_the_work_at_once_and_nothing_more_is_written() -> None:
    async with bench(latency=SLOW, lease_s=0.3) as here:
        job_id = await here.queue(n=4)
        await here.until(job_id, JobState.RUNNING)
        await until(lambda: here.store.read(job_id))
        epoch = await here.store.claim(job_id, "elsewhere:1:x", lease_s=9, force=True)
        rows = await here.store.read(job_id)

        async def is_idle() -> bool:
            return not here.ttc.running and not here.runner.num_running

        await until(is_idle)
        assert await here.store.read(job_id) == rows
        assert (await here.engine.health()).live_sequences == 0
        record = await here.store.get(job_id)
    assert (record.state, record.epoch, record.owner) == (JobState.RUNNING, epoch, "elsewhere:1:x")


async def test_a_cancellation_that_another_process_asked_for_ends_the_job_with_what_it_has() -> None:
    async with bench(latency=SLOW) as here:
        job_id = await here.queue(n=4)
        await here.until(job_id, JobState.RUNNING)
        await here.store.ask_to_cancel(job_id)
        record = await here.ended(job_id)
        assert (await here.engine.health()).live_sequences == 0
    assert record.state is JobState.CANCELLED
    assert record.result is not None
    assert record.result["stop_reason"] == "cancelled"


async def test_a_job_that_was_cancelled_before_it_was_taken_asks_no_model() -> None:
    store = MemoryStore()
    async with Orchestrator(ScriptedEngine(arithmetic()), store=store) as ttc:
        record = queued(ttc)
        await store.create(record)
        await store.ask_to_cancel(record.id)
    async with bench(store=store) as here:
        ended = await here.ended(record.id)
        assert here.engine.log == []
    assert ended.state is JobState.CANCELLED
    assert [row.kind for row in await store.read(record.id)] == ["final"]


async def test_drain_gives_a_job_back_that_another_runner_finishes_without_paying_twice() -> None:
    store = MemoryStore()
    async with bench(store=store, latency=SLOW) as here:
        job_id = await here.queue(n=3)

        async def has_begun() -> bool:
            return (await here.engine.health()).output_tokens > 0

        await until(has_begun)
        started = time.monotonic()
        await here.runner.drain(0.1)
        assert time.monotonic() - started < 1.0
        assert (await store.get(job_id)).state is JobState.QUEUED
        assert here.running.done() or not here.runner.num_running
    async with bench(store=store) as there:
        record = await there.ended(job_id)
    usage = Recording(await store.read(job_id)).usage
    assert record.state is JobState.SUCCEEDED
    assert record.result is not None
    assert record.result["usage"]["output_tokens"] == usage.output_tokens
    assert record.result["usage"]["lost_tokens"] > 0


async def test_drain_lets_a_short_job_come_to_its_end() -> None:
    async with bench(latency=Latency(token_s=0.002)) as here:
        job_id = await here.queue()
        await here.until(job_id, JobState.RUNNING)
        await here.runner.drain(5.0)
        assert (await here.store.get(job_id)).state is JobState.SUCCEEDED
        assert await here.store.take("elsewhere:1:x", lease_s=9) is None


async def test_nothing_is_taken_while_it_drains() -> None:
    async with bench(latency=SLOW, concurrency=1) as here:
        first, second = await here.queue(n=1), await here.queue(n=1)
        await here.until(first, JobState.RUNNING)
        await here.runner.drain(0.2)
        assert (await here.store.get(second)).epoch == 0


async def test_a_bound_job_whose_process_died_ends_as_cancelled_and_pays_what_was_in_flight() -> None:
    store = MemoryStore()
    async with Orchestrator(ScriptedEngine(arithmetic()), store=store) as ttc:
        asked = ttc.check(PROBLEM, policy="single", budget="tokens=500")
        asked = asked._replace(spec=replace(asked.spec, is_bound=True))
        record = replace(ttc.new_record(asked), owner="elsewhere:1:x")
        await store.create(record, lease_s=0.01)
        dispatched = {"a": 0, "r": "r/0", "units": [0], "grants": [100], "prompt": 20}
        begun = {"a": 0, "action": {"type": "Expand", "nodes": ["0"], "num_samples": [1], "model": "small"}}
        await store.append(record.id, 1, [JournalRow(0, "begin", begun), JournalRow(1, "dispatch", dispatched)])
    await asyncio.sleep(0.02)
    async with bench(store=store) as here:
        ended = await here.ended(record.id)
        assert here.engine.log == []
    assert ended.state is JobState.CANCELLED
    assert ended.result is not None
    assert ended.result["usage"]["lost_tokens"] == 20 + 64
    assert [row.kind for row in await store.read(record.id)] == ["begin", "dispatch", "lost", "final"]


async def test_a_job_that_cannot_be_opened_fails_with_the_reason() -> None:
    async with bench() as here:
        record = queued(here.ttc)
        record = replace(record, spec={**record.spec, "policy": "no_such_policy"})
        await here.store.create(record)
        ended = await here.ended(record.id)
    assert ended.state is JobState.FAILED
    assert ended.result is not None
    assert ended.result["error"]["code"] == "unknown_name"


async def test_a_job_whose_controllers_die_again_and_again_fails() -> None:
    store = MemoryStore()
    async with Orchestrator(ScriptedEngine(arithmetic()), store=store) as ttc:
        record = queued(ttc)
        await store.create(record)
        epoch = await store.claim(record.id, "elsewhere:1:x", lease_s=0.01)
        rows = [JournalRow(seq, "lost", {"usage": {"output_tokens": 1}, "requests": []}) for seq in range(21)]
        await store.append(record.id, epoch, rows)
    await asyncio.sleep(0.02)
    async with bench(store=store) as here:
        ended = await here.ended(record.id)
        assert here.engine.log == []
    assert ended.state is JobState.FAILED
    assert ended.result is not None
    assert "21 controllers died" in ended.result["error"]["message"]


class FailingStore(MemoryStore):
    """Fails while ``is_failing``."""

    is_failing = False
    num_asked = 0

    async def take(self, *args: Any, **options: Any) -> Any:
        if self.is_failing:
            self.num_asked += 1
            raise StoreFailed("no disk")
        return await super().take(*args, **options)


async def test_a_failing_store_is_asked_seldom_and_work_goes_on_when_it_is_back() -> None:
    store = FailingStore()
    store.is_failing = True
    async with bench(store=store) as here:
        job_id = await here.queue()
        await asyncio.sleep(0.4)
        assert 1 <= store.num_asked <= 3
        assert here.runner.is_store_failing
        store.is_failing = False
        record = await here.ended(job_id)
        assert record.state is JobState.SUCCEEDED
        await asyncio.sleep(0.3)
        assert not here.runner.is_store_failing


async def test_observers_hear_every_row_of_a_job_and_their_mistakes_do_no_harm() -> None:
    heard: list[Event] = []

    def good(record: JobRecord) -> Any:
        return heard.append

    def bad(record: JobRecord) -> Any:
        def publish(event: Event) -> None:
            raise RuntimeError("an observer's bug")

        return publish

    async with bench(observers=[bad, good]) as here:
        job_id = await here.queue()
        record = await here.ended(job_id)
        rows = await here.store.read(job_id)
    assert record.state is JobState.SUCCEEDED
    assert [event.seq for event in heard if event.seq is not None] == [row.seq for row in rows]


async def test_a_job_that_is_due_ends_at_its_deadline() -> None:
    async with bench(latency=SLOW) as here:
        started = time.monotonic()
        record = await here.ended(await here.queue(n=2, due_at=time.time() + 0.5))
        assert time.monotonic() - started < 1.5
    assert record.result is not None
    assert record.result["limited_by"] == "max_seconds"


async def test_cancelling_the_runner_gives_its_jobs_back_at_once() -> None:
    async with bench(latency=SLOW) as here:
        job_id = await here.queue(n=2)
        await here.until(job_id, JobState.RUNNING)
        here.running.cancel()
        with suppress(asyncio.CancelledError):
            await here.running
        assert (await here.store.get(job_id)).state is JobState.QUEUED


@pytest.mark.parametrize("concurrency", [0])
async def test_a_runner_without_concurrency_takes_nothing_and_still_hears_of_cancellations(concurrency: int) -> None:
    async with bench(concurrency=concurrency, latency=SLOW) as here:
        queued_id = await here.queue()
        asked = here.ttc.check(PROBLEM, policy="single", budget="tokens=500")
        record = here.ttc.new_record(asked)

        async def chat() -> None:
            with here.runner.holding(record.id, 1):
                await here.ttc.run_new(asked, record)

        async with asyncio.timeout(3), asyncio.TaskGroup() as tasks:
            tasks.create_task(chat())
            await asyncio.sleep(0.1)
            await here.store.ask_to_cancel(record.id)
        assert (await here.store.get(record.id)).state is JobState.CANCELLED
        assert (await here.store.get(queued_id)).state is JobState.QUEUED


async def test_a_job_that_this_version_cannot_read_fails_and_the_others_go_on() -> None:
    async with bench() as here:
        of_later = replace(queued(here.ttc), spec={**queued(here.ttc).spec, "field_of_a_later_version": 1})
        torn = replace(queued(here.ttc), spec={"problem": "of whom nobody knows the rest"})
        for record in (of_later, torn):
            await here.store.create(record)
        ended = [await here.ended(record.id) for record in (of_later, torn)]
        after = await here.ended(await here.queue())
        assert not here.running.done()
    assert [record.state for record in ended] == [JobState.FAILED] * 2
    assert all(record.result is not None and record.result["error"]["message"] for record in ended)
    assert after.state is JobState.SUCCEEDED


async def test_an_observer_that_cannot_watch_a_job_does_no_harm() -> None:
    def bad(record: JobRecord) -> Any:
        raise RuntimeError("an observer's bug")

    async with bench(observers=[bad]) as here:
        record = await here.ended(await here.queue())
    assert record.state is JobState.SUCCEEDED


class SlowToEnd(MemoryStore):
    """What ends a job is there at once, and acknowledged later."""

    async def append(self, job_id: str, epoch: int, rows: Any, **change: Any) -> None:
        await super().append(job_id, epoch, rows, **change)
        if change.get("state") in {JobState.SUCCEEDED, JobState.CANCELLED}:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_job_whose_end_is_just_being_written_is_not_given_back(is_cancelled: bool) -> None:
    async with bench(store=SlowToEnd()) as here:
        record = queued(here.ttc)
        await here.store.create(record)
        if is_cancelled:
            await here.store.ask_to_cancel(record.id)
        job_id = record.id
        record = await here.ended(job_id)
        await here.runner.drain(0.0)
        after = await here.store.get(job_id)
        rows = await here.store.read(job_id)
    assert after.state is record.state
    assert [row.kind for row in rows].count("final") == 1


class SlowStore(MemoryStore):
    """Jobs that are taken, and rows that are read, are told of later; nothing is called off."""

    def __init__(self, *, take_s: float = 0.0, read_s: float = 0.0) -> None:
        super().__init__()
        self._take_s, self._read_s = take_s, read_s
        self.num_taken = 0

    async def take(self, *args: Any, **options: Any) -> Any:
        claimed = await super().take(*args, **options)
        self.num_taken += claimed is not None
        await asyncio.sleep(self._take_s)
        return claimed

    async def read(self, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(self._read_s)
        return await super().read(*args, **options)


@pytest.mark.parametrize("is_drained", [True, False])
async def test_a_job_that_is_just_being_taken_when_the_runner_ends_goes_back_to_the_queue(is_drained: bool) -> None:
    store = SlowStore(take_s=0.1)
    async with bench(store=store, latency=SLOW) as here:
        job_id = await here.queue()

        async def is_taken() -> bool:
            return store.num_taken == 1

        await until(is_taken)
        if is_drained:
            await here.runner.drain(0.0)
        else:
            here.running.cancel()
        with suppress(asyncio.CancelledError):
            await here.running
        record = await store.get(job_id)
    assert record.state is JobState.QUEUED
    assert store.num_taken == 1


class FailsLate(MemoryStore):
    """Says after a while that nothing can be taken."""

    async def take(self, *args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.1)
        raise StoreFailed("no disk")


async def test_a_runner_ends_while_its_store_fails() -> None:
    async with bench(store=FailsLate()) as here, asyncio.timeout(3):
        await asyncio.sleep(0.05)
        await here.runner.drain(0.0)
        await here.running
    assert here.running.done()


async def test_a_job_whose_journal_is_just_being_read_when_the_runner_ends_goes_back_to_the_queue() -> None:
    store = SlowStore(read_s=0.2)
    async with bench(store=store, latency=SLOW) as here:
        record = queued(here.ttc)
        await store.create(record)
        epoch = await store.claim(record.id, "elsewhere:1:x", lease_s=9)
        await store.append(record.id, epoch, [], state=JobState.QUEUED)
        await here.until(record.id, JobState.RUNNING)
        await asyncio.sleep(0.05)
        await here.runner.drain(0.0)
        assert (await store.get(record.id)).state is JobState.QUEUED


async def test_a_job_that_comes_back_while_its_earlier_run_ends_here_is_run_again() -> None:
    async with bench(latency=Latency(token_s=0.01), lease_s=0.3) as here:
        job_id = await here.queue(n=1)
        await until(lambda: here.store.read(job_id))
        epoch = await here.store.claim(job_id, "elsewhere:1:x", lease_s=9, force=True)
        await here.store.append(job_id, epoch, [], state=JobState.QUEUED)
        record = await here.ended(job_id)
        after = await here.ended(await here.queue(n=1))
        assert not here.running.done()
    assert (record.state, after.state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)


async def test_leases_of_what_runs_beside_the_queue_are_kept_until_it_has_ended() -> None:
    async with bench(lease_s=0.3) as here:
        record = replace(here.ttc.new_record(here.ttc.check(PROBLEM, policy="single")), owner=here.ttc.owner)
        await here.store.create(record, lease_s=0.3)
        with here.runner.holding(record.id, 1):
            draining = asyncio.create_task(here.runner.drain(0.0))
            await asyncio.sleep(0.7)
            assert await here.store.take("elsewhere:1:x", lease_s=9) is None
        await draining
