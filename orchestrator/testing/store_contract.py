"""What every store promises, as tests: subclass `StoreContract` and give it `make_store`.

Stores that outlive their process subclass `DurableStoreContract`, which opens the same data twice. Tests are
coroutines: run pytest-asyncio in auto mode, or mark the subclass. The suites of the parts of `Store` are in modules
of their own.
"""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from orchestrator.budget import NOTHING, Amount
from orchestrator.errors import BudgetExhausted, JobConflict, LeaseLost, StoreFailed
from orchestrator.store import JobRecord, JobState, Payment, Store
from orchestrator.stores.leases import new_owner
from orchestrator.testing.accounts_contract import COST, RESULT, AccountsContract, tokens
from orchestrator.testing.documents_contract import DocumentsContract
from orchestrator.testing.jobs_contract import JobsContract
from orchestrator.testing.journals_contract import JournalsContract
from orchestrator.testing.queue_contract import QueueContract
from orchestrator.testing.store_suite import ODD_VALUES, SOON_S, MakeStore, rows

__all__ = ["DurableStoreContract", "MakeStore", "StoreContract"]


class StoreContract(JobsContract, JournalsContract, QueueContract, AccountsContract, DocumentsContract):
    """The promises of `Store`."""

    async def test_a_closed_store_refuses_everything_and_may_be_closed_again(self, make_store: MakeStore) -> None:
        store = await make_store()
        job_id, epoch = await self.claimed(store)
        await store.aclose()
        await store.aclose()
        attempts: list[Awaitable[object]] = [
            store.create(JobRecord(id="z")),
            store.get(job_id),
            store.list_jobs(),
            store.claim(job_id, "o:1:x", lease_s=1),
            store.append(job_id, epoch, rows(0)),
            store.read(job_id),
            store.delete(job_id),
            store.take("o:1:x", lease_s=1),
            store.ask_to_cancel(job_id),
            store.wanted_cancelled("o:1:x"),
            store.count_jobs(),
            store.wait_for_work(timeout_s=SOON_S),
            store.wait_for_news(job_id, after=-1, timeout_s=SOON_S),
            store.set_aside("a", job_id, NOTHING, caps={}),
            store.settle(job_id, NOTHING),
            store.spent("a", "day"),
            store.find(tenant="", idempotency_key="k"),
            store.admit("a", rate_per_s=1, burst=1),
            store.put_document("k", "a", {}),
            store.get_document("k", "a"),
            store.list_documents("k"),
        ]
        for attempt in attempts:
            with pytest.raises(StoreFailed):
                await attempt


class DurableStoreContract(StoreContract):
    """And those of stores that outlive their process; `make_store` opens the same data each time."""

    async def test_what_was_acknowledged_is_there_after_closing_and_opening(self, make_store: MakeStore) -> None:
        first = await make_store()
        job_id, epoch = await self.claimed(first)
        await first.append(job_id, epoch, rows(0, 5), result={"x": ODD_VALUES})
        await first.aclose()
        second = await make_store()
        assert await second.read(job_id) == rows(0, 5)
        assert (await second.get(job_id)).result == {"x": ODD_VALUES}
        await second.append(job_id, epoch, rows(5))
        second.check_integrity()
        await second.aclose()

    async def test_two_open_stores_see_each_others_writes_and_guard_each_others_leases(
        self, make_store: MakeStore
    ) -> None:
        first, second = await make_store(), await make_store()
        job_id, epoch = await self.claimed(first)
        await first.append(job_id, epoch, rows(0))
        assert await second.read(job_id) == rows(0)
        with pytest.raises(JobConflict):
            await second.claim(job_id, new_owner(), lease_s=60)
        taken = await second.claim(job_id, new_owner(), lease_s=60, force=True)
        with pytest.raises(LeaseLost):
            await first.append(job_id, epoch, rows(1))
        await second.append(job_id, taken, rows(1))
        assert await first.read(job_id) == rows(0, 2)
        await first.aclose()
        await second.aclose()

    async def test_two_open_stores_write_at_the_same_time(self, make_store: MakeStore) -> None:
        stores = [await make_store(), await make_store()]
        jobs = [(store, *await self.claimed(store)) for store in stores for _ in range(5)]

        async def write(store: Store, job_id: str, epoch: int) -> None:
            for number in range(30):
                await store.append(job_id, epoch, rows(number))

        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(write(*job))
        for _, job_id, _ in jobs:
            assert await stores[0].read(job_id) == rows(0, 30)
        for store in stores:
            await store.aclose()

    async def test_books_documents_marks_and_keys_are_there_after_closing_and_opening(
        self, make_store: MakeStore
    ) -> None:
        first = await make_store()
        await first.create(
            JobRecord(id="old", owner=new_owner()), lease_s=60, payment=Payment("a", COST, {"day": None})
        )
        await first.append("old", 1, rows(0), state=JobState.SUCCEEDED, result=RESULT)
        await first.set_aside("a", "new", tokens(7), caps={"day": None})
        await first.create(JobRecord(id="new", tenant="t", idempotency_key="k"))
        await first.ask_to_cancel("new")
        await first.put_document("kind", "key", ODD_VALUES)
        assert await first.admit("a", rate_per_s=0.001, burst=1) == 0
        await first.aclose()
        second = await make_store()
        assert await second.spent("a", "day") == (COST, tokens(7))
        assert await second.get_document("kind", "key") == ODD_VALUES
        assert await second.admit("a", rate_per_s=0.001, burst=1) > 0
        assert await second.count_jobs() == {JobState.SUCCEEDED: 1, JobState.QUEUED: 1}
        with pytest.raises(JobConflict):
            await second.create(JobRecord(id="newer", tenant="t", idempotency_key="k"))
        taken = await second.take(new_owner(), lease_s=60)
        assert taken is not None
        assert taken.record.is_cancel_wanted
        await second.settle("new", Amount(model_calls=1))
        assert await second.spent("a", "day") == (COST + Amount(model_calls=1), NOTHING)
        second.check_integrity()
        await second.aclose()

    async def test_two_open_stores_share_one_queue_and_one_cap(self, make_store: MakeStore) -> None:
        stores = [await make_store(), await make_store()]
        for number in range(20):
            await stores[number % 2].create(JobRecord(id=f"j{number:02}"))
        claimed = await asyncio.gather(*[stores[n % 2].take(new_owner(), lease_s=60) for n in range(30)])
        ids = sorted(one.record.id for one in claimed if one is not None)
        assert ids == [f"j{number:02}" for number in range(20)]
        caps = {"day": tokens(100)}
        aside = await asyncio.gather(
            *[stores[n % 2].set_aside("a", f"j{n}", tokens(9), caps=caps) for n in range(30)], return_exceptions=True
        )
        assert sum(isinstance(one, BudgetExhausted) for one in aside) == 19
        admitted = await asyncio.gather(*[stores[n % 2].admit("a", rate_per_s=0.01, burst=7) for n in range(20)])
        assert admitted.count(0) == 7
        made = await asyncio.gather(
            *[stores[n % 2].create(JobRecord(id=f"k{n}", idempotency_key="k")) for n in range(20)],
            return_exceptions=True,
        )
        assert sum(isinstance(one, JobConflict) for one in made) == 19
        for store in stores:
            store.check_integrity()
            await store.aclose()

    async def test_who_waits_at_one_open_store_is_woken_by_the_other(self, make_store: MakeStore) -> None:
        first, second = await make_store(), await make_store()
        job_id, epoch = await self.claimed(first)
        await self.until_it_waits_for_work(second)
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(second.wait_for_news(job_id, after=-1, timeout_s=10 * SOON_S))
            work = group.create_task(second.wait_for_work(timeout_s=10 * SOON_S))
            await asyncio.sleep(0.2)
            await first.append(job_id, epoch, rows(0))
            await asyncio.sleep(0.2)
            assert not work.done()  # a row is no work
            await first.create(JobRecord(id="b"))
        async with asyncio.timeout(SOON_S):
            await self.until_it_waits_for_work(second)
            await first.ask_to_cancel(job_id)  # between two waits
            await second.wait_for_work(timeout_s=10 * SOON_S)
            started = time.monotonic()
            await second.wait_for_news(job_id, after=0, timeout_s=0.3)
            assert time.monotonic() - started >= 0.2
        await first.aclose()
        await second.aclose()
