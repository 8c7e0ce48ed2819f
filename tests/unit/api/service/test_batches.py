"""``/v1/batches``: many jobs under one budget."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.api.service.batching import split
from orchestrator.api.service.requests import BatchRequest
from orchestrator.api.service.security.principal import KeyLimits, Principal
from orchestrator.budget import Budget
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.stores import MemoryStore

from .serving import JOB, SLOW, serving, until


def batch(count: int = 3, shared: Any = None, **fields: Any) -> dict[str, Any]:
    jobs = [{"problem": f"What is 1 + {number}?", "policy": "single", **fields} for number in range(count)]
    return {"requests": jobs, "budget": shared}


async def test_a_batch_gives_its_results_in_the_order_of_its_requests() -> None:
    async with serving() as here:
        response = await here.post("/v1/batches", batch(4, "tokens=4000"))
        made = response.json()

        async def is_finished() -> bool:
            return bool((await here.client.get(f"/v1/batches/{made['id']}")).json()["is_finished"])

        await until(is_finished)
        found = (await here.client.get(f"/v1/batches/{made['id']}")).json()
        listed = (await here.client.get(f"/v1/jobs?batch={made['id']}")).json()["data"]
    assert (response.status_code, made["num_jobs"], made["counts"]) == (202, 4, {"queued": 4})
    assert [job["problem"] for job in found["jobs"]] == [f"What is 1 + {number}?" for number in range(4)]
    assert [job["budget"] for job in found["jobs"]] == [{"max_output_tokens": 1000}] * 4
    assert found["counts"] == {"succeeded": 4}
    total = sum(job["usage"]["output_tokens"] for job in found["jobs"])
    assert found["usage"]["output_tokens"] == total
    assert {job["id"] for job in listed} == {job["id"] for job in found["jobs"]}


async def test_a_batch_shows_what_is_finished_while_the_rest_runs_and_ends_as_a_whole() -> None:
    async with serving(latency=SLOW, concurrency=1) as here:
        batch_id = (await here.post("/v1/batches", batch(3))).json()["id"]

        async def one_is_done() -> bool:
            return (await here.client.get(f"/v1/batches/{batch_id}")).json()["counts"].get("succeeded", 0) == 1

        await until(one_is_done)
        partial = (await here.client.get(f"/v1/batches/{batch_id}")).json()
        await here.client.delete(f"/v1/batches/{batch_id}")

        async def all_have_ended() -> bool:
            return bool((await here.client.get(f"/v1/batches/{batch_id}")).json()["is_finished"])

        await until(all_have_ended)
        cancelled = (await here.client.get(f"/v1/batches/{batch_id}")).json()
    assert partial["is_finished"] is False
    assert partial["jobs"][0]["answer"] == "1"
    assert cancelled["counts"] == {"succeeded": 1, "cancelled": 2}


async def test_the_same_key_and_body_are_the_same_batch_and_another_body_is_a_conflict() -> None:
    async with serving() as here:
        sent = [here.post("/v1/batches", batch(3), **{"Idempotency-Key": "k"}) for _ in range(3)]
        first, *others = [(await asyncio.create_task(request)).json() for request in sent]
        conflict = await here.post("/v1/batches", batch(4), **{"Idempotency-Key": "k"})
        jobs = (await here.client.get("/v1/jobs")).json()["data"]
    assert {other["id"] for other in others} == {first["id"]}
    assert len(jobs) == 3
    assert conflict.status_code == 409


async def test_a_batch_that_was_left_half_done_is_completed_by_the_same_request() -> None:
    async with serving(concurrency=0) as here:
        first = (await here.post("/v1/batches", batch(3), **{"Idempotency-Key": "k"})).json()
        document = await here.store.get_document("batch", first["id"])
        lost = first["jobs"][2]["id"]
        await here.store.delete(lost)
        await here.store.put_document("batch", first["id"], {**document, "job_ids": []})
        again = (await here.post("/v1/batches", batch(3), **{"Idempotency-Key": "k"})).json()
    assert [job["id"] for job in again["jobs"][:2]] == [job["id"] for job in first["jobs"][:2]]
    assert len(again["jobs"]) == 3


class FailsOnce(MemoryStore):
    """Its third job cannot be written at first; by then another process runs the first one."""

    num_created = 0

    async def create(self, *args: Any, **options: Any) -> None:
        self.num_created += 1
        if self.num_created == 3:
            assert await self.take("elsewhere:1:x", lease_s=60) is not None
            raise StoreFailed("the store cannot be reached")
        await super().create(*args, **options)


async def test_a_batch_whose_store_failed_is_completed_by_the_same_request_and_nothing_of_it_is_cancelled() -> None:
    async with serving(store=FailsOnce(), concurrency=0) as here:
        refused = await here.post("/v1/batches", batch(3), **{"Idempotency-Key": "k"})
        made = await here.post("/v1/batches", batch(3), **{"Idempotency-Key": "k"})
        records = await here.store.list_jobs()
    assert (refused.status_code, made.status_code) == (503, 202)
    assert made.json()["counts"] == {"running": 1, "queued": 2}
    assert [record.is_cancel_wanted for record in records] == [False] * 3


async def test_a_batch_is_taken_as_a_whole_or_not_at_all() -> None:
    async with serving(concurrency=0) as here:
        body = batch(3)
        body["requests"][2]["params"] = {"no_such": 1}
        response = await here.post("/v1/batches", body)
        assert await here.store.list_jobs() == []
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "requests.2"


async def test_a_batch_that_its_key_cannot_pay_for_leaves_nothing_behind() -> None:
    who = Principal(tenant="t", key_id="k", limits=KeyLimits(total=Budget(max_output_tokens=1500)))
    async with serving(concurrency=0, who=who) as here:
        response = await here.post("/v1/batches", batch(3) | {"budget": {"max_output_tokens": 3000}})
        assert await here.store.list_jobs() == []
        _, set_aside = await here.store.spent("k", "total")
    assert response.status_code == 402
    assert set_aside.output_tokens == 0


async def test_a_batch_beyond_what_may_wait_is_refused() -> None:
    async with serving(concurrency=0, max_waiting=2) as here:
        response = await here.post("/v1/batches", batch(3))
    assert response.status_code == 429


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_batch_of_another_tenant_does_not_exist(method: str) -> None:
    async with serving(concurrency=0, who=Principal(tenant="a")) as here:
        batch_id = (await here.post("/v1/batches", batch(1))).json()["id"]
        here.who = Principal(tenant="b")
        response = await here.client.request(method, f"/v1/batches/{batch_id}")
    assert response.status_code == 404


def test_a_shared_budget_is_split_evenly_and_seconds_hold_for_each() -> None:
    body = batch(4, {"max_output_tokens": 4003, "max_usd": 0.1, "max_seconds": 60, "max_tool_calls": 3})
    parts = [job.caps() for job in split(BatchRequest(**body), most=10)]
    assert parts == [Budget(max_output_tokens=1000, max_usd=0.025, max_seconds=60, max_tool_calls=0)] * 4


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (batch(11), "requests"),
        (batch(3, "tokens=2"), "budget.max_output_tokens"),
        (batch(2, "tokens=100", budget="tokens=50"), "requests.0.budget"),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        split(BatchRequest(**body), most=10)
    assert raised.value.field == field


async def test_batches_that_are_refused_leave_nothing_behind() -> None:
    async with serving(concurrency=0, max_waiting=1) as here:
        response = await here.post("/v1/batches", {"requests": [JOB, JOB]})
        documents = await here.store.list_documents("batch")
    assert response.status_code == 429
    assert documents == []
