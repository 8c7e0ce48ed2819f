"""What stores promise about the records of jobs, and about who holds one."""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import JobConflict, LeaseLost, UnknownName
from orchestrator.store import Change, JobRecord, JobState, Store
from orchestrator.stores.identifiers import new_job_id
from orchestrator.stores.leases import new_owner
from orchestrator.testing.store_suite import ODD_VALUES, StoreSuite, rows


class JobsContract(StoreSuite):
    """The promises of `orchestrator.store.Jobs`."""

    # Records

    async def test_a_job_is_kept_as_it_was_given(self, store: Store) -> None:
        record = JobRecord(
            id=new_job_id(),
            spec=ODD_VALUES,
            created_at=1.5,
            updated_at=2.5,
            tenant="日本 \0 a:b",
            key_id="k/1",
            priority=-3,
            due_at=1e9 + 0.25,
            batch="b {1}",
            idempotency_key='twice " %',
            is_cancel_wanted=True,
        )
        await store.create(record)
        assert await store.get(record.id) == record
        assert await store.list_jobs() == [record]

    async def test_an_id_is_taken_once(self, store: Store) -> None:
        await store.create(JobRecord(id="a", spec={"first": True}))
        with pytest.raises(JobConflict) as caught:
            await store.create(JobRecord(id="a", spec={"first": False}))
        assert caught.value.fields()["job_id"] == "a"
        assert (await store.get("a")).spec == {"first": True}

    async def test_what_a_tenant_sends_twice_becomes_one_job_and_the_error_names_it(self, store: Store) -> None:
        first = JobRecord(id="a", tenant="t", idempotency_key="k")
        await store.create(first)
        with pytest.raises(JobConflict) as caught:
            await store.create(replace(first, id="b"))
        assert caught.value.fields()["job_id"] == "a"
        for other in (
            JobRecord(id="c", tenant="u", idempotency_key="k"),
            JobRecord(id="d", tenant="t", idempotency_key="l"),
            JobRecord(id="e", tenant="t"),
            JobRecord(id="f", tenant="t"),
        ):
            await store.create(other)
        assert [job.id for job in await store.list_jobs()] == ["f", "e", "d", "c", "a"]
        assert await store.count_jobs(tenant="t") == {JobState.QUEUED: 4}
        await store.delete("a")
        await store.create(replace(first, id="b"))

    async def test_of_many_that_send_the_same_one_creates_the_job(self, store: Store) -> None:
        tried = [store.create(JobRecord(id=f"j{number}", idempotency_key="k")) for number in range(20)]
        results = await asyncio.gather(*tried, return_exceptions=True)
        (made,) = await store.list_jobs()
        refused = [result for result in results if isinstance(result, JobConflict)]
        assert [error.fields()["job_id"] for error in refused] == [made.id] * 19

    async def test_a_job_is_found_by_the_key_of_its_tenant(self, store: Store) -> None:
        record = JobRecord(id="a", tenant="t", idempotency_key="k", spec={"x": 1})
        await store.create(record)
        await store.create(JobRecord(id="b", tenant="t"))
        assert await store.find(tenant="t", idempotency_key="k") == record
        assert await store.find(tenant="u", idempotency_key="k") is None
        assert await store.find(tenant="t", idempotency_key="l") is None
        await store.delete("a")
        assert await store.find(tenant="t", idempotency_key="k") is None

    async def test_a_job_that_is_created_with_a_lease_is_never_in_the_queue(self, store: Store) -> None:
        owner = new_owner()
        await store.create(JobRecord(id="a", owner=owner), lease_s=self.short_lease_s * 4)
        record = await store.get("a")
        assert (record.state, record.epoch, record.owner) == (JobState.RUNNING, 1, owner)
        assert await store.take(new_owner(), lease_s=60) is None
        with pytest.raises(JobConflict):
            await store.claim("a", new_owner(), lease_s=60)
        await store.append("a", 1, rows(0))
        await asyncio.sleep(self.short_lease_s * 5)
        assert await store.claim("a", new_owner(), lease_s=60) == 2

    async def test_a_job_that_ends_as_it_is_created_is_never_held(self, store: Store) -> None:
        first = Change(rows(0, 2), JobState.SUCCEEDED, {"n": 1})
        await store.create(JobRecord(id="a", owner=new_owner(), tenant="t"), lease_s=60, first=first)
        record = await store.get("a")
        assert (record.state, record.epoch, record.result) == (JobState.SUCCEEDED, 1, {"n": 1})
        assert await store.read("a") == list(first.rows)
        assert await store.count_jobs(tenant="t") == {JobState.SUCCEEDED: 1}
        with pytest.raises(JobConflict):
            await store.claim("a", new_owner(), lease_s=60)

    async def test_a_journal_that_begins_as_its_job_is_created_goes_on_from_there(self, store: Store) -> None:
        first = Change(rows(0, 2))
        await store.create(JobRecord(id="a", owner=new_owner()), lease_s=self.short_lease_s * 4, first=first)
        with pytest.raises(LeaseLost):
            await store.append("a", 1, rows(0))
        await store.append("a", 1, rows(2))
        assert [row.seq for row in await store.read("a")] == [0, 1, 2]
        assert await store.take(new_owner(), lease_s=60) is None
        with pytest.raises(JobConflict):
            await store.create(JobRecord(id="a", owner=new_owner()), lease_s=60, first=first)
        assert len(await store.read("a")) == 3
        await asyncio.sleep(self.short_lease_s * 5)
        assert await store.claim("a", new_owner(), lease_s=60) == 2

    async def test_an_unknown_job_is_refused_with_the_latest_that_exist(self, store: Store) -> None:
        await store.create(JobRecord(id="a"))
        with pytest.raises(UnknownName) as caught:
            await store.get("b")
        assert (caught.value.kind, caught.value.name, caught.value.known) == ("job", "b", ["a"])
        with pytest.raises(UnknownName):
            await store.claim("b", new_owner(), lease_s=1)

    async def test_jobs_are_listed_newest_first_by_state_and_in_pages(self, store: Store) -> None:
        ids = [new_job_id(now=1000 + number) for number in range(7)]
        for number, job_id in enumerate(reversed(ids)):
            await store.create(JobRecord(id=job_id, state=JobState.FAILED if number % 2 else JobState.QUEUED))
        newest_first = ids[::-1]
        assert [job.id for job in await store.list_jobs()] == newest_first
        page = await store.list_jobs(limit=3)
        following = await store.list_jobs(limit=3, before=page[-1].id)
        assert [job.id for job in [*page, *following]] == newest_first[:6]
        assert [job.id for job in await store.list_jobs(state=JobState.FAILED)] == newest_first[1::2]
        assert await store.list_jobs(limit=0) == []
        assert await store.list_jobs(state=JobState.WAITING) == []

    async def test_jobs_are_listed_by_tenant_and_batch(self, store: Store) -> None:
        for number in range(12):
            await store.create(
                JobRecord(
                    id=f"j{number:02}",
                    tenant="tu"[number % 2],
                    batch=f"b{number % 3}" if number < 9 else None,
                    state=JobState.WAITING if number % 4 == 0 else JobState.QUEUED,
                )
            )

        async def listed(**filters: Any) -> list[int]:  # Any: what list_jobs takes
            return [int(job.id[1:]) for job in await store.list_jobs(**filters)]

        assert await listed(tenant="t") == [10, 8, 6, 4, 2, 0]
        assert await listed(tenant="t", before="j06", limit=2) == [4, 2]
        assert await listed(batch="b0") == [6, 3, 0]
        assert await listed(batch="b0", tenant="u") == [3]
        assert await listed(batch="b0", tenant="t", state=JobState.WAITING) == [0]
        assert await listed(tenant="u", state=JobState.WAITING) == []
        assert await listed(tenant="") == []
        assert await listed(batch="b1", limit=1, before="j07") == [4]

    async def test_a_deleted_job_is_gone_with_its_journal_and_its_controller_cannot_write(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0, 3))
        await store.delete(job_id)
        await store.delete(job_id)
        with pytest.raises(UnknownName):
            await store.get(job_id)
        assert await store.read(job_id) == []
        with pytest.raises(LeaseLost):
            await store.append(job_id, epoch, rows(3))
        again, epoch = await self.claimed(store, job_id)
        await store.append(again, epoch, rows(0))

    # Leases

    async def test_a_claim_raises_the_epoch_names_the_owner_and_sets_the_job_running(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        record = await store.get(job_id)
        assert (epoch, record.epoch, record.state) == (1, 1, JobState.RUNNING)
        assert record.owner is not None

    async def test_a_job_held_by_a_live_owner_is_taken_by_force_only(self, store: Store) -> None:
        job_id, _ = await self.claimed(store)
        with pytest.raises(JobConflict):
            await store.claim(job_id, new_owner(), lease_s=60)
        assert await store.claim(job_id, "elsewhere:1:x", lease_s=60, force=True) == 2
        with pytest.raises(JobConflict):
            await store.claim(job_id, new_owner(), lease_s=60)

    async def test_a_job_that_nobody_has_claimed_cannot_be_written_to(self, store: Store) -> None:
        await store.create(JobRecord(id="a"))
        with pytest.raises(LeaseLost):
            await store.append("a", 0, rows(0))
        assert await store.read("a") == []

    async def test_an_owner_may_claim_its_job_again(self, store: Store) -> None:
        await store.create(JobRecord(id="a"))
        owner = new_owner()
        assert [await store.claim("a", owner, lease_s=60) for _ in range(2)] == [1, 2]

    async def test_a_lease_ends_when_nothing_is_appended_for_its_length(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store, lease_s=self.short_lease_s * 4)
        for number in range(4):
            await asyncio.sleep(self.short_lease_s * 2)
            await store.append(job_id, epoch, rows(number // 2) if number % 2 == 0 else [])  # no rows renew it, too
        with pytest.raises(JobConflict):
            await store.claim(job_id, "elsewhere:1:x", lease_s=60)
        await asyncio.sleep(self.short_lease_s * 5)
        assert await store.claim(job_id, "elsewhere:1:x", lease_s=60) == 2

    async def test_the_lease_of_a_dead_process_counts_as_over(self, store: Store) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""])  # noqa: ASYNC220  # it ends at once
        job_id = new_job_id()
        host, _, nonce = new_owner().split(":")
        await store.create(JobRecord(id=job_id))
        await store.claim(job_id, f"{host}:{process.pid}:{nonce}", lease_s=60)
        process.wait()
        assert await store.claim(job_id, new_owner(), lease_s=60) == 2

    @pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
    async def test_a_finished_job_is_never_taken_up_again(self, store: Store, state: JobState) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0), state=state, result={"answer": "42"})
        record = await store.get(job_id)
        assert (record.state, record.result) == (state, {"answer": "42"})
        for force in (False, True):
            with pytest.raises(JobConflict):
                await store.claim(job_id, new_owner(), lease_s=60, force=force)

    @pytest.mark.parametrize("state", [JobState.WAITING, JobState.QUEUED])
    async def test_a_job_that_does_not_run_is_let_go(self, store: Store, state: JobState) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0), state=state)
        assert await store.claim(job_id, "elsewhere:1:x", lease_s=60) == 2

    async def test_one_of_many_claimers_gets_the_job(self, store: Store) -> None:
        await store.create(JobRecord(id="a"))
        owners = [new_owner() for _ in range(20)]
        tried = [store.claim("a", owner, lease_s=60) for owner in owners]
        results = await asyncio.gather(*tried, return_exceptions=True)
        assert sorted(isinstance(result, JobConflict) for result in results) == [False] + [True] * 19
        winner = owners[[isinstance(result, int) for result in results].index(True)]
        assert (await store.get("a")).owner == winner
