"""What stores promise about the journals of jobs."""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.errors import LeaseLost
from orchestrator.store import JobState, JournalRow, Store
from orchestrator.stores.leases import new_owner
from orchestrator.testing.store_suite import ODD_VALUES, StoreSuite, rows


class JournalsContract(StoreSuite):
    """The promises of `orchestrator.store.Journals`."""

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
