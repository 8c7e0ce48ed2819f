"""What every store promises, as tests: subclass `StoreContract` and give it `make_store`.

Stores that outlive their process subclass `DurableStoreContract`, which opens the same data twice. Tests are
coroutines: run pytest-asyncio in auto mode, or mark the subclass.
"""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest

from orchestrator.errors import JobConflict, LeaseLost, StoreFailed, UnknownName
from orchestrator.store import JobRecord, JobState, JournalRow, Store
from orchestrator.stores.identifiers import new_job_id
from orchestrator.stores.leases import new_owner

MakeStore = Callable[[], Awaitable[Store]]
"""Opens an empty store; called again within one test, the same one a second time where stores are shared."""

ODD_VALUES: dict[str, Any] = {  # Any: JSON values
    "text": "日本語 🎉 \0 \u202e \ud800 \"'\\ </script>",
    "numbers": [0, -1, 2**53, 2**80, 1e-300, 0.1, True, None],
    "nested": {"": {"a b": [[], {}, [[]]]}},
}


def rows(first: int, count: int = 1, kind: str = "mark") -> list[JournalRow]:
    """``count`` rows from position ``first`` on."""
    return [JournalRow(seq, kind, {"n": seq}) for seq in range(first, first + count)]


class StoreContract:
    """The promises of `Store`.

    Attributes:
        short_lease_s: A lease that is over soon, for tests that wait for its end.
    """

    short_lease_s: ClassVar[float] = 0.05

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Opens an empty store; must be overridden."""
        raise NotImplementedError("override the fixture `make_store`")

    @pytest.fixture
    async def store(self, make_store: MakeStore) -> AsyncIterator[Store]:
        """A store that is whole after every test."""
        store = await make_store()
        yield store
        store.check_integrity()
        await store.aclose()

    async def claimed(self, store: Store, job_id: str | None = None, *, lease_s: float = 60) -> tuple[str, int]:
        """A new job held by this process, and its epoch."""
        job_id = job_id or new_job_id()
        await store.create(JobRecord(id=job_id))
        return job_id, await store.claim(job_id, new_owner(), lease_s=lease_s)

    # Records

    async def test_a_job_is_kept_as_it_was_given(self, store: Store) -> None:
        record = JobRecord(id=new_job_id(), spec=ODD_VALUES, created_at=1.5, updated_at=2.5)
        await store.create(record)
        assert await store.get(record.id) == record

    async def test_an_id_is_taken_once(self, store: Store) -> None:
        await store.create(JobRecord(id="a", spec={"first": True}))
        with pytest.raises(JobConflict):
            await store.create(JobRecord(id="a", spec={"first": False}))
        assert (await store.get("a")).spec == {"first": True}

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
            await store.append(job_id, epoch, rows(number))
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

    # Journals

    async def test_rows_come_back_in_order_and_as_they_were(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        given = [JournalRow(0, "begin", ODD_VALUES), JournalRow(1, "émark\0", {}), *rows(2, 40)]
        await store.append(job_id, epoch, given[:2])
        await store.append(job_id, epoch, given[2:])
        assert await store.read(job_id) == given
        assert await store.read(job_id, after=39) == given[40:]
        assert await store.read(job_id, after=41) == []
        assert await store.read("no-such-job") == []

    async def test_a_row_may_be_a_megabyte_long(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        row = JournalRow(0, "sample", {"text": "0123456789abcdef" * 65536})
        await store.append(job_id, epoch, [row])
        assert await store.read(job_id) == [row]

    async def test_changing_a_row_after_it_was_appended_changes_nothing(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        data: dict[str, Any] = {"list": [1]}
        await store.append(job_id, epoch, [JournalRow(0, "begin", data)])
        data["list"].append(2)
        assert (await store.read(job_id))[0].data == {"list": [1]}

    async def test_a_state_can_change_without_rows_and_a_result_stays(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, [], result={"partial": 1})
        await store.append(job_id, epoch, [], state=JobState.WAITING)
        record = await store.get(job_id)
        assert (record.state, record.result) == (JobState.WAITING, {"partial": 1})
        assert await store.read(job_id) == []

    @pytest.mark.parametrize("first", [0, 1, 3, 4, 7])
    async def test_rows_that_are_not_next_are_refused_whole(self, store: Store, first: int) -> None:
        job_id, epoch = await self.claimed(store)
        await store.append(job_id, epoch, rows(0, 2))
        before = await store.get(job_id)
        with pytest.raises(LeaseLost):
            await store.append(job_id, epoch, rows(first, 2), state=JobState.SUCCEEDED, result={"x": 1})
        assert await store.get(job_id) == before
        assert await store.read(job_id) == rows(0, 2)

    async def test_a_controller_that_lost_its_lease_cannot_write(self, store: Store) -> None:
        job_id, old_epoch = await self.claimed(store)
        await store.append(job_id, old_epoch, rows(0))
        new_epoch = await store.claim(job_id, new_owner(), lease_s=60, force=True)
        for stale in (old_epoch, new_epoch + 1, 0):
            for batch in (rows(1), []):
                with pytest.raises(LeaseLost):
                    await store.append(job_id, stale, batch, state=JobState.FAILED)
        await store.append(job_id, new_epoch, rows(1))
        assert await store.read(job_id) == rows(0, 2)
        assert (await store.get(job_id)).state is JobState.RUNNING

    @pytest.mark.parametrize(
        ("bad", "error"),
        [
            ([*rows(0), JournalRow(1, "mark", {"x": object()})], TypeError),
            ([*rows(0), *rows(2)], ValueError),
            ([*rows(0), *rows(0)], ValueError),
        ],
    )
    async def test_rows_that_cannot_be_kept_are_refused_whole(
        self, store: Store, bad: list[JournalRow], error: type[Exception]
    ) -> None:
        job_id, epoch = await self.claimed(store)
        with pytest.raises(error):
            await store.append(job_id, epoch, bad)
        assert await store.read(job_id) == []
        await store.append(job_id, epoch, rows(0))

    async def test_appends_of_many_jobs_at_once_all_arrive_in_order(self, store: Store) -> None:
        jobs = [await self.claimed(store) for _ in range(40)]

        async def write(job_id: str, epoch: int) -> None:
            for number in range(10):
                await store.append(job_id, epoch, rows(2 * number, 2))

        async with asyncio.TaskGroup() as group:
            for job_id, epoch in jobs:
                group.create_task(write(job_id, epoch))
        for job_id, _ in jobs:
            assert await store.read(job_id) == rows(0, 20)

    async def test_of_two_appends_at_the_same_place_one_is_refused_and_others_are_not_harmed(
        self, store: Store
    ) -> None:
        job_id, epoch = await self.claimed(store)
        other, other_epoch = await self.claimed(store)
        results = await asyncio.gather(
            store.append(job_id, epoch, rows(0, kind="one")),
            store.append(job_id, epoch, rows(0, kind="two")),
            store.append(other, other_epoch, rows(0)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, LeaseLost) for result in results[:2]) == 1
        assert results[2] is None
        assert len(await store.read(job_id)) == 1

    async def test_a_cancelled_append_is_there_whole_or_not_at_all(self, store: Store) -> None:
        job_id, epoch = await self.claimed(store)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.append(job_id, epoch, rows(0, 3)))
            await asyncio.sleep(0)
            task.cancel()
        await store.claim(job_id, new_owner(), lease_s=60, force=True)
        assert await store.read(job_id) in ([], rows(0, 3))

    # The end

    async def test_a_closed_store_refuses_everything_and_may_be_closed_again(self, make_store: MakeStore) -> None:
        store = await make_store()
        job_id, epoch = await self.claimed(store)
        await store.aclose()
        await store.aclose()
        for attempt in (
            store.create(JobRecord(id="z")),
            store.get(job_id),
            store.list_jobs(),
            store.claim(job_id, "o:1:x", lease_s=1),
            store.append(job_id, epoch, rows(0)),
            store.read(job_id),
            store.delete(job_id),
        ):
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
