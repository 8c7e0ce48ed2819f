"""What stores promise about jobs that wait for a controller, and to those who wait for jobs."""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from orchestrator.errors import LeaseLost, UnknownName
from orchestrator.store import Claimed, JobRecord, JobState, Store
from orchestrator.stores.identifiers import new_job_id
from orchestrator.stores.leases import new_owner
from orchestrator.testing.store_suite import SOON_S, StoreSuite, rows

ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


async def taken(store: Store, *, most: int = 100, lease_s: float = 60) -> list[str]:
    """Ids of all jobs that can be taken, in the order in which they are."""
    ids: list[str] = []
    while len(ids) < most and (claimed := await store.take(new_owner(), lease_s=lease_s)) is not None:
        ids.append(claimed.record.id)
    return ids


class QueueContract(StoreSuite):
    """The promises of `orchestrator.store.Queue`."""

    async def test_an_empty_queue_gives_nothing(self, store: Store) -> None:
        assert await store.take(new_owner(), lease_s=60) is None

    async def test_a_job_is_taken_once_by_an_owner_who_can_write_to_it(self, store: Store) -> None:
        record = JobRecord(id=new_job_id(), spec={"x": 1}, tenant="t", key_id="k", batch="b", priority=2, due_at=5.5)
        await store.create(record)
        owner = new_owner()
        claimed = await store.take(owner, lease_s=60)
        assert claimed == Claimed(await store.get(record.id), 1)
        assert (claimed.record.state, claimed.record.owner, claimed.record.epoch) == (JobState.RUNNING, owner, 1)
        assert (claimed.record.spec, claimed.record.tenant, claimed.record.due_at) == ({"x": 1}, "t", 5.5)
        assert await store.take(new_owner(), lease_s=60) is None
        await store.append(record.id, 1, rows(0))
        assert await store.read(record.id) == rows(0)

    async def test_the_highest_priority_goes_first_then_the_earliest_due_then_the_oldest(self, store: Store) -> None:
        in_order = [
            JobRecord(id="f", priority=5),
            JobRecord(id="h", priority=1, due_at=100.5),
            JobRecord(id="d", priority=1, due_at=2e9),
            JobRecord(id="e", priority=1, due_at=2e9),
            JobRecord(id="b", priority=1),
            JobRecord(id="c", priority=1),
            JobRecord(id="g", due_at=1.0),
            JobRecord(id="i"),
            JobRecord(id="a", priority=-1, due_at=-1.0),
        ]
        for record in sorted(in_order, key=lambda record: record.id):
            await store.create(record)
        assert await taken(store) == [record.id for record in in_order]

    async def test_of_many_that_take_at_once_each_gets_another_job(self, store: Store) -> None:
        for number in range(30):
            await store.create(JobRecord(id=f"j{number:02}"))
        results = await asyncio.gather(*[store.take(new_owner(), lease_s=60) for _ in range(40)])
        claimed = [result.record.id for result in results if result is not None]
        assert sorted(claimed) == [f"j{number:02}" for number in range(30)]

    async def test_a_job_whose_lease_ran_out_is_taken_again_in_its_place(self, store: Store) -> None:
        await store.create(JobRecord(id="lost", priority=1))
        first = await store.take("elsewhere:1:x", lease_s=self.short_lease_s)
        assert first is not None
        await store.create(JobRecord(id="new"))
        await store.create(JobRecord(id="urgent", priority=2))
        await asyncio.sleep(self.short_lease_s * 2)
        claimed = [await store.take(new_owner(), lease_s=60) for _ in range(4)]
        found = [None if one is None else (one.record.id, one.epoch) for one in claimed]
        assert found == [("urgent", 1), ("lost", 2), ("new", 1), None]
        with pytest.raises(LeaseLost):
            await store.append("lost", first.epoch, rows(0))

    async def test_a_job_whose_process_died_is_taken_though_its_lease_lasts(self, store: Store) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""])  # noqa: ASYNC220  # it ends at once
        host, _, nonce = new_owner().split(":")
        await store.create(JobRecord(id="a"))
        assert await store.take(f"{host}:{process.pid}:{nonce}", lease_s=60) is not None
        process.wait()
        claimed = await store.take(new_owner(), lease_s=60)
        assert claimed is not None
        assert (claimed.record.id, claimed.epoch) == ("a", 2)

    async def test_only_jobs_that_are_queued_wait(self, store: Store) -> None:
        for state in (JobState.WAITING, *ENDED):
            job_id, epoch = await self.claimed(store, state.value)
            await store.append(job_id, epoch, rows(0), state=state)
        await self.claimed(store, "held")
        await store.create(JobRecord(id="deleted"))
        await store.delete("deleted")
        await store.create(JobRecord(id="finished", state=JobState.SUCCEEDED))
        await store.create(JobRecord(id="paused", state=JobState.WAITING))
        assert await taken(store) == []

    async def test_a_job_that_was_put_back_is_taken_again_with_a_new_epoch(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0), state=JobState.QUEUED)
        claimed = await store.take(new_owner(), lease_s=60)
        assert claimed is not None
        assert (claimed.record.id, claimed.epoch) == (job_id, 2)
        await store.append(job_id, 2, rows(1))

    async def test_appends_keep_a_taken_job(self, store: Store) -> None:
        await store.create(JobRecord(id="a"))
        claimed = await store.take("elsewhere:1:x", lease_s=self.short_lease_s * 4)
        assert claimed is not None
        for _ in range(4):
            await asyncio.sleep(self.short_lease_s * 2)
            await store.append("a", claimed.epoch, [])
            assert await store.take(new_owner(), lease_s=60) is None

    async def test_jobs_of_a_tenant_that_has_enough_running_are_passed_over(self, store: Store) -> None:
        for number, tenant in enumerate("aaaab"):
            await store.create(JobRecord(id=f"j{number}", tenant=tenant))
        owner = new_owner()

        async def take() -> str | None:
            claimed = await store.take(owner, lease_s=60, most_per_tenant=2)
            return None if claimed is None else claimed.record.id

        assert [await take() for _ in range(4)] == ["j0", "j1", "j4", None]
        await store.append("j0", 1, [], state=JobState.WAITING)  # waits for a person
        assert [await take(), await take()] == ["j2", None]
        await store.append("j1", 1, [], state=JobState.SUCCEEDED)
        assert [await take(), await take()] == ["j3", None]

    async def test_jobs_whose_lease_ran_out_do_not_count_as_running(self, store: Store) -> None:
        for job_id in "ab":
            await store.create(JobRecord(id=job_id, tenant="t"))
        assert await store.take("elsewhere:1:x", lease_s=self.short_lease_s, most_per_tenant=1) is not None
        assert await store.take(new_owner(), lease_s=60, most_per_tenant=1) is None
        await asyncio.sleep(self.short_lease_s * 2)
        again = await store.take(new_owner(), lease_s=60, most_per_tenant=1)
        assert again is not None
        assert (again.record.id, again.epoch) == ("a", 2)
        assert await store.take(new_owner(), lease_s=60, most_per_tenant=1) is None

    # Cancelling

    async def test_who_runs_a_job_hears_that_it_is_to_be_cancelled(self, store: Store) -> None:
        owner, other = new_owner(), new_owner()
        for job_id, runner in (("a", owner), ("b", owner), ("c", other)):
            await store.create(JobRecord(id=job_id))
            await store.claim(job_id, runner, lease_s=60)
        for job_id in "ac":
            assert (await store.ask_to_cancel(job_id)).is_cancel_wanted
        again = await store.ask_to_cancel("a")
        assert again == await store.get("a")
        assert again.state is JobState.RUNNING
        assert (await store.wanted_cancelled(owner), await store.wanted_cancelled(other)) == (["a"], ["c"])
        await store.append("a", 1, rows(0), state=JobState.CANCELLED)
        assert await store.wanted_cancelled(owner) == []

    async def test_a_queued_job_that_is_to_be_cancelled_may_be_taken_and_says_so(self, store: Store) -> None:
        await store.create(JobRecord(id="a"))
        marked = await store.ask_to_cancel("a")
        assert (marked.state, marked.is_cancel_wanted) == (JobState.QUEUED, True)
        owner = new_owner()
        assert await store.wanted_cancelled(owner) == []
        claimed = await store.take(owner, lease_s=60)
        assert claimed is not None
        assert claimed.record.is_cancel_wanted
        assert await store.wanted_cancelled(owner) == ["a"]

    @pytest.mark.parametrize("state", ENDED)
    async def test_a_finished_job_stays_as_it_is(self, store: Store, state: JobState) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0), state=state)
        before = await store.get(job_id)
        assert await store.ask_to_cancel(job_id) == before
        assert await store.get(job_id) == before

    async def test_the_end_of_an_unknown_job_cannot_be_asked_for(self, store: Store) -> None:
        with pytest.raises(UnknownName) as caught:
            await store.ask_to_cancel("nobody")
        assert (caught.value.kind, caught.value.name) == ("job", "nobody")

    # Counting

    async def test_jobs_are_counted_by_state_and_tenant(self, store: Store) -> None:
        assert await store.count_jobs() == {}
        for number in range(6):
            await store.create(JobRecord(id=f"j{number}", tenant="tu"[number % 2]))
        await store.claim("j0", new_owner(), lease_s=60)
        await store.claim("j1", new_owner(), lease_s=60)
        await store.append("j1", 1, [], state=JobState.FAILED)
        await store.delete("j2")
        assert await store.count_jobs() == {JobState.QUEUED: 3, JobState.RUNNING: 1, JobState.FAILED: 1}
        assert await store.count_jobs(tenant="t") == {JobState.QUEUED: 1, JobState.RUNNING: 1}
        assert await store.count_jobs(tenant="v") == {}

    # Waiting

    async def test_waits_end_in_time_when_nothing_happens(self, store: Store) -> None:
        job_id, _ = await self.claimed(store)
        await store.take(new_owner(), lease_s=60)
        started = time.monotonic()
        for _ in range(5):  # the first may return early
            await store.wait_for_work(timeout_s=0.1)
            await store.wait_for_news(job_id, after=-1, timeout_s=0.1)
        assert 0.5 <= time.monotonic() - started < SOON_S

    @pytest.mark.parametrize("change", ["create", "put back", "cancel"])
    async def test_who_waits_for_work_is_woken(self, store: Store, change: str) -> None:
        job_id, epoch = await self.claimed(store)
        await self.until_it_waits_for_work(store)
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            waiting = group.create_task(store.wait_for_work(timeout_s=10 * SOON_S))
            await asyncio.sleep(0.02)
            assert not waiting.done()
            if change == "create":
                await store.create(JobRecord(id="b"))
            elif change == "put back":
                await store.append(job_id, epoch, rows(0), state=JobState.QUEUED)
            else:
                await store.ask_to_cancel(job_id)

    async def test_work_that_came_between_looking_and_waiting_is_not_missed(self, store: Store) -> None:
        await self.until_it_waits_for_work(store)
        assert await store.take(new_owner(), lease_s=60) is None
        await store.create(JobRecord(id="b"))
        async with asyncio.timeout(SOON_S):
            await store.wait_for_work(timeout_s=10 * SOON_S)
            assert await taken(store) == ["b"]

    async def test_each_of_two_who_wait_gets_one_of_two_jobs(self, store: Store) -> None:
        async def work() -> None:
            while await store.take(new_owner(), lease_s=60) is None:
                await store.wait_for_work(timeout_s=10 * SOON_S)

        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(work())
            await asyncio.sleep(0.05)
            for job_id in "ab":
                await store.create(JobRecord(id=job_id))

    async def test_the_end_of_a_job_of_a_tenant_that_had_enough_is_work_for_others(self, store: Store) -> None:
        for job_id in "ab":
            await store.create(JobRecord(id=job_id, tenant="t"))
        first = await store.take(new_owner(), lease_s=60, most_per_tenant=1)
        assert first is not None

        async def work() -> None:
            while await store.take(new_owner(), lease_s=60, most_per_tenant=1) is None:
                await store.wait_for_work(timeout_s=10 * SOON_S)

        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            group.create_task(work())
            await asyncio.sleep(0.05)
            await store.append(first.record.id, 1, rows(0), state=JobState.SUCCEEDED)

    async def test_a_row_that_is_there_already_is_news_at_once(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0, 3))
        async with asyncio.timeout(SOON_S):
            for after in (-1, 1):
                await store.wait_for_news(job_id, after=after, timeout_s=10 * SOON_S)

    async def test_of_a_job_that_ended_or_is_unknown_nobody_waits_for_news(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0), state=JobState.SUCCEEDED)
        async with asyncio.timeout(SOON_S):
            await store.wait_for_news(job_id, after=0, timeout_s=10 * SOON_S)
            await store.wait_for_news("nobody", after=-1, timeout_s=10 * SOON_S)

    @pytest.mark.parametrize("change", ["row", "state", "delete"])
    async def test_everyone_who_waits_for_news_of_a_job_is_woken_and_no_one_else(
        self, store: Store, change: str
    ) -> None:
        job_id, epoch = await self.claimed(store)
        other, _ = await self.claimed(store)
        await store.append(job_id, epoch, rows(0))
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(store.wait_for_news(job_id, after=0, timeout_s=10 * SOON_S)) for _ in range(50)
            ]
            elsewhere = group.create_task(store.wait_for_news(other, after=-1, timeout_s=10 * SOON_S))
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting)
            if change == "row":
                await store.append(job_id, epoch, rows(1))
            elif change == "state":
                await store.append(job_id, epoch, [], state=JobState.WAITING)
            else:
                await store.delete(job_id)
            await asyncio.wait(waiting)
            assert not elsewhere.done()
            elsewhere.cancel()

    async def test_who_waits_at_the_end_of_the_store_does_not_wait_on(self, store: Store) -> None:
        job_id, _ = await self.claimed(store)
        await self.until_it_waits_for_work(store)
        tasks = [
            asyncio.ensure_future(store.wait_for_work(timeout_s=10 * SOON_S)),
            asyncio.ensure_future(store.wait_for_news(job_id, after=-1, timeout_s=10 * SOON_S)),
        ]
        await asyncio.sleep(0.05)
        await store.aclose()
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_it_waits_for_work(self, store: Store) -> None:
        """Takes what is left of earlier changes, for which a wait may return early."""
        await store.take(new_owner(), lease_s=60)
        for _ in range(5):
            started = time.monotonic()
            await store.wait_for_work(timeout_s=0.15)
            if time.monotonic() - started >= 0.1:
                return
        raise AssertionError("it does not wait")
