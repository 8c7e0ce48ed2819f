"""The books of a Redis store, added up by scripts without loss, agree with Python's whole numbers."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from orchestrator.budget import AMOUNT_NAMES, NOTHING, Amount
from orchestrator.errors import BudgetExhausted
from orchestrator.store import JobRecord, JobState
from orchestrator.stores import new_owner
from orchestrator.stores.redis import RedisStore

from .redis_server import RedisServer

pytestmark = pytest.mark.server

SIZES = (0, 1, 999, 10**15 - 1, 10**15, 10**15 + 1, 2**53 + 1, 2**64 + 3, 10**22 + 7)


def some(chance: random.Random) -> Amount:
    return Amount(*(chance.choice(SIZES) + chance.randrange(3) for _ in AMOUNT_NAMES))


@pytest.mark.parametrize("seed", range(3))
async def test_random_stories_of_accounts_agree_with_exact_arithmetic(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    spent = aside = NOTHING
    jobs: dict[str, Amount] = {}
    with RedisServer(tmp_path) as server:
        store = await RedisStore.open(server.url)
        for number in range(300):
            job_id = f"j{chance.randrange(20)}"
            if chance.random() < 0.5:
                wanted, cap = some(chance), spent + aside + some(chance)
                had = jobs.get(job_id, NOTHING)
                taken = spent + aside - had
                fits = all(
                    not getattr(cap, name) or getattr(wanted, name) <= max(0, getattr(cap, name) - getattr(taken, name))
                    for name in AMOUNT_NAMES
                )
                try:
                    await store.set_aside("a", job_id, wanted, caps={"day": cap, "ever": None})
                    assert fits, number
                    aside, jobs[job_id] = aside - had + wanted, wanted
                except BudgetExhausted:
                    assert not fits, number
            else:
                actual = some(chance)
                await store.settle(job_id, actual)
                if job_id in jobs:
                    aside, spent = aside - jobs.pop(job_id), spent + actual
            for period in ("day", "ever"):
                assert await store.spent("a", period) == (spent, aside), number
        await store.aclose()


async def test_a_cap_holds_for_jobs_that_begin_and_end_at_the_same_time(tmp_path: Path) -> None:
    cap, each = Amount(output_tokens=100), Amount(output_tokens=10)
    result = {"usage": {"output_tokens": 7}}
    highest = 0
    with RedisServer(tmp_path) as server:
        stores = [await RedisStore.open(server.url) for _ in range(2)]

        async def run(number: int) -> None:
            nonlocal highest
            store, job_id = stores[number % 2], f"j{number}"
            try:
                await store.set_aside("a", job_id, each, caps={"day": cap})
            except BudgetExhausted:
                return
            await store.create(JobRecord(id=job_id, owner=new_owner()), lease_s=60)
            spent, aside = await store.spent("a", "day")
            highest = max(highest, (spent + aside).output_tokens)
            await store.append(job_id, 1, [], state=JobState.SUCCEEDED, result=result)

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(run(number))
        spent, aside = await stores[0].spent("a", "day")
        num_jobs = len(await stores[0].list_jobs(limit=1000))
        assert (spent.output_tokens, aside) == (7 * num_jobs, NOTHING)
        assert num_jobs >= 10
        assert highest <= 100
        for store in stores:
            await store.aclose()
