"""The rules for processes that die hold for what nothing interrupted, and find what breaks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import Budget, Orchestrator
from orchestrator.bench.soaking.crash_rules import look
from orchestrator.bench.soaking.crashing import Crashed, Told, request_of
from orchestrator.bench.soaking.streams import Follower
from orchestrator.budget import Amount
from orchestrator.store import JobRecord, JobState
from orchestrator.stores import open_store
from orchestrator.testing.scripted import open_engine

NUM_JOBS, SEED = 3, 5


async def solved(path: Path) -> Crashed:
    told = Told()
    async with Orchestrator(await open_engine("arithmetic"), store=path) as ttc:
        for number in range(NUM_JOBS):
            asked: dict[str, Any] = request_of(number, SEED)
            budget = Budget(**asked.pop("budget"))
            result = await ttc.solve(asked.pop("problem"), budget=budget, **asked)
            rows = await ttc.store.read(result.job_id)
            told.ids[number] = {result.job_id}
            told.answers[result.job_id] = {("succeeded", result.text)}
            told.followers.append(Follower(result.job_id, [(row.seq, row.kind, row.data) for row in rows]))
            await ttc.store.set_aside("k", result.job_id, result.usage.amount, caps={"total": None})
            await ttc.store.settle(result.job_id, result.usage.amount)
    return Crashed(store=str(path), key_id="k", told=told, harm={}, seconds=1.0)


async def test_all_rules_hold_for_jobs_that_nothing_interrupted(tmp_path: Path) -> None:
    crashed = await solved(tmp_path / "jobs.sqlite")
    found = await look(crashed, num_jobs=NUM_JOBS, seed=SEED)
    assert found["problems"] == []
    assert (found["num_succeeded"], found["num_lives"], found["lost_tokens"]) == (NUM_JOBS, NUM_JOBS, 0)
    assert found["paid_tokens"] == found["account_tokens"] > 0


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("lost", "there are []"),
        ("answered differently", "its end was told as"),
        ("twice", "there are ["),
        ("gap", "a reader got"),
        ("repeat", "a reader got"),
        ("paid again", "the account says"),
        ("set aside", "still set aside"),
    ],
)
async def test_what_breaks_a_rule_is_found(harm: str, said: str, tmp_path: Path) -> None:
    crashed = await solved(tmp_path / "jobs.sqlite")
    (first,) = crashed.told.ids[0]
    reader = crashed.told.followers[0]
    store = await open_store(crashed.store)
    try:
        record = await store.get(first)
        match harm:
            case "lost":
                await store.delete(first)
                crashed.told.ids[0] = set()
            case "answered differently":
                crashed.told.answers[first].add(("succeeded", "another"))
            case "twice":
                await store.create(JobRecord(id="0" * 20, spec=record.spec, state=JobState.QUEUED))
            case "gap":
                del reader.rows[1]
            case "repeat":
                reader.rows.insert(1, reader.rows[1])
            case "paid again":
                await store.set_aside("k", "other", Amount(output_tokens=5), caps={"total": None})
                await store.settle("other", Amount(output_tokens=5))
            case "set aside":
                await store.set_aside("k", "other", Amount(output_tokens=5), caps={"total": None})
    finally:
        await store.aclose()
    assert any(said in problem for problem in (await look(crashed, num_jobs=NUM_JOBS, seed=SEED))["problems"])
