"""What happens when two things that are asked of the service meet: cancellations, replies, the runner, its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.actions import AskHuman
from orchestrator.api.service.security.principal import Principal
from orchestrator.errors import JobConflict, StoreFailed
from orchestrator.policy import as_policy
from orchestrator.store import JobState
from orchestrator.stores import MemoryStore
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

from .serving import JOB, serving, until


class SlowToClaim(MemoryStore):
    """Claims come when the job has been taken by somebody else."""

    async def claim(self, job_id: str, *args: Any, **options: Any) -> int:
        while (await self.get(job_id)).state is JobState.QUEUED:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)
        return await super().claim(job_id, *args, **options)


class LateToTell(SlowToClaim):
    """A job that is taken is told of later."""

    is_open = False

    async def take(self, *args: Any, **options: Any) -> Any:
        if not self.is_open:
            return None
        claimed = await super().take(*args, **options)
        await asyncio.sleep(0.05)
        return claimed


async def test_a_job_that_is_taken_here_while_it_is_cancelled_is_ended_once() -> None:
    store = LateToTell()
    async with serving(store=store) as here:
        job_id = (await here.post("/v1/jobs", JOB)).json()["id"]
        cancelling = asyncio.create_task(here.client.delete(f"/v1/jobs/{job_id}"))
        await asyncio.sleep(0.02)
        store.is_open = True
        response = await cancelling

        async def has_ended() -> bool:
            return (await store.get(job_id)).state.is_terminal

        await until(has_ended)
        rows = await store.read(job_id)
        record = await store.get(job_id)
        other = (await here.post("/v1/jobs?wait=4", JOB)).json()
    assert response.status_code == 200
    assert (record.state, record.epoch) == (JobState.CANCELLED, 1)
    assert [row.kind for row in rows] == ["final"]
    assert other["state"] == "succeeded"


async def test_chats_that_wait_for_their_turn_are_refused_when_the_service_stops() -> None:
    async with serving(latency=Latency(token_s=0.01), chat_concurrency=1) as here:
        body = {"model": "ttc/single", "messages": [{"role": "user", "content": "What is 3 + 4 * 2?"}]}
        first, second = (asyncio.create_task(here.post("/v1/chat/completions", body)) for _ in range(2))

        async def is_waiting() -> bool:
            return here.service.chats.num_waiting == 1

        await until(is_waiting)
        await here.service.drain(5.0)
        responses = [await first, await second]
        num_jobs = len(await here.store.list_jobs())
    assert [response.status_code for response in responses] == [200, 503]
    assert num_jobs == 1


def asking(query: Any, ctx: Any) -> Any:
    """Asks a person."""
    return (yield AskHuman("which one?"))


class LateClaims(MemoryStore):
    """The second claim comes when the first claimant has written."""

    num_claims = 0

    async def claim(self, job_id: str, *args: Any, **options: Any) -> int:
        self.num_claims += 1
        while self.num_claims == 2 and (await self.get(job_id)).state is not JobState.QUEUED:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return await super().claim(job_id, *args, **options)


async def test_of_two_replies_at_once_one_is_a_conflict_and_the_job_goes_on_with_the_other() -> None:
    store = LateClaims()
    async with Orchestrator(ScriptedEngine(arithmetic()), store=store) as ttc:
        waiting = await ttc.solve("Which one?", policy=as_policy(asking))
        replies = await asyncio.gather(
            ttc.reply(waiting.job_id, "blue"), ttc.reply(waiting.job_id, "red"), return_exceptions=True
        )
        record = await store.get(waiting.job_id)
        outcomes = [row.data["outcome"] for row in await store.read(waiting.job_id) if row.kind == "done"]
    assert replies[0] is None
    assert isinstance(replies[1], JobConflict)
    assert record.state is JobState.QUEUED
    assert outcomes == [{"reply": "blue"}]


class FailsToRead(MemoryStore):
    """Journals cannot be read while ``is_failing``."""

    is_failing = False

    async def read(self, *args: Any, **options: Any) -> Any:
        if self.is_failing:
            raise StoreFailed("no disk")
        return await super().read(*args, **options)


async def test_an_event_stream_whose_store_fails_ends_so_that_its_reader_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FailsToRead()
    async with serving(store=store, concurrency=0, heartbeat_s=0.05) as here:
        job_id = (await here.post("/v1/jobs", JOB)).json()["id"]
        store.is_failing = True
        response = await here.client.get(f"/v1/jobs/{job_id}/events")
    assert (response.status_code, response.text) == (200, "retry: 1000\n\n")
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]


class Forgetful(MemoryStore):
    """Jobs are deleted while somebody waits for them."""

    async def wait_for_news(self, job_id: str, *, after: int, timeout_s: float) -> None:
        await self.delete(job_id)


async def test_whoever_waits_for_a_job_that_is_deleted_hears_nothing_of_the_jobs_of_others() -> None:
    async with serving(store=Forgetful(), concurrency=0, who=Principal(tenant="alice")) as here:
        others = (await here.post("/v1/jobs", JOB)).json()["id"]
        here.who = Principal(tenant="bob")
        job_id = (await here.post("/v1/jobs", JOB)).json()["id"]
        response = await here.client.get(f"/v1/jobs/{job_id}?wait=5")
    assert response.status_code == 404
    assert others not in response.text
