"""Old jobs are forgotten, and no others."""

from __future__ import annotations

import time

from orchestrator.api.service.retention import forget

from .serving import JOB, serving, until


async def test_jobs_that_ended_long_ago_are_forgotten_and_unfinished_and_new_ones_are_kept() -> None:
    async with serving() as here:
        old = (await here.post("/v1/jobs?wait=5", JOB)).json()["id"]
        await here.service.runner.drain(0.0)
        waiting = (await here.post("/v1/jobs", JOB)).json()["id"]
        border = time.time()
        new = await here.post("/v1/jobs", JOB)
        new_id = new.json()["id"]
        await here.client.delete(f"/v1/jobs/{new_id}")
        assert await forget(here.store, older_than=border) == 1
        left = [record.id for record in await here.store.list_jobs()]
        gone = await here.client.get(f"/v1/jobs/{old}")
    assert left == [new_id, waiting]
    assert gone.status_code == 404


async def test_a_service_that_keeps_jobs_for_a_while_only_forgets_by_itself() -> None:
    async with serving() as before:
        store = before.store
        old = (await before.post("/v1/jobs?wait=5", JOB)).json()["id"]
        async with serving(store=store, keep_days=1e-9):

            async def is_gone() -> bool:
                return old not in {record.id for record in await store.list_jobs()}

            await until(is_gone)


async def test_a_batch_is_forgotten_with_the_last_of_its_jobs() -> None:
    async with serving() as here:

        async def finished() -> str:
            batch_id: str = (await here.post("/v1/batches", {"requests": [JOB]})).json()["id"]

            async def is_finished() -> bool:
                return bool((await here.client.get(f"/v1/batches/{batch_id}")).json()["is_finished"])

            await until(is_finished)
            return batch_id

        old, border, new = await finished(), time.time(), await finished()
        await forget(here.store, older_than=border)
        statuses = [(await here.client.get(f"/v1/batches/{batch_id}")).status_code for batch_id in (old, new)]
        await forget(here.store, older_than=time.time())
        left = await here.store.list_documents("batch")
    assert (statuses, left) == ([404, 200], [])
