"""A job whose journal was cut at any row ends as if nothing had happened, and pays only for what was lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator import Answer, Budget, JobState, Orchestrator
from orchestrator.actions import Cancel, Commit, Compute, Conclude, Expand, Next, Propose, Release, Score, Start
from orchestrator.errors import BudgetExhausted, JobConflict, LeaseLost, ReplayDiverged, StoreFailed
from orchestrator.job import JobSpec
from orchestrator.journal import Recording
from orchestrator.store import JournalRow
from orchestrator.testing import Fault, Latency, arithmetic, judge, on_calls
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

from .jobs import PROBLEM, DurableMemory, Ran, an_engine, assert_same, life_of, resumed, run_job

SLOW = Latency(prefill_s=0.02, token_s=0.002, jitter=0.6)


def mixed(query: Any, ctx: Any) -> Any:
    """A little of everything that costs something, decided by what was seen."""
    first = yield Expand([query.root], 3, max_tokens=40)
    scores = yield Score(first.nodes, "generative")
    best = max(range(len(first)), key=lambda i: scores[i] or 0.0)
    yield Propose(Answer("not yet"))
    stream = yield Start(Expand([first[best], query.root], [2, 3]), parallel=2)
    votes = []
    while (node := (yield Next(stream))) is not None:
        votes.append(node.answer)
        yield Release([node])
    yield Cancel(stream)
    concluded = yield Conclude(first[0])
    yield Commit(concluded)
    return Answer(f"{votes} {concluded.answer} {ctx.rng.integers(100)}", concluded)


def catches(query: Any, ctx: Any) -> Any:
    """Meets the end of its budget twice and goes on."""
    nodes: list[Any] = []
    for _ in range(3):
        try:
            nodes += yield Expand([query.root], 4, max_tokens=60)
        except BudgetExhausted:
            yield Propose(Answer("poor"))
    return Answer(f"{len(nodes)}")


POLICIES: list[tuple[Any, dict[str, Any], Budget | None]] = [
    ("single", {}, None),
    ("self_consistency", {"n": 4}, None),
    ("adaptive_consistency", {"max_samples": 6, "parallel": 2, "confidence": 0.99}, None),
    ("early_stopping", {"max_samples": 6, "window": 2}, None),
    ("best_of_n", {"n": 3}, None),
    ("budget_forcing", {}, None),
    ("cascade", {"n_small": 3, "batch": 1}, None),
    (mixed, {}, None),
    (catches, {}, Budget(max_output_tokens=300)),
    ("self_consistency", {"n": 12}, Budget(max_output_tokens=400)),
]


def engines(**options: Any) -> tuple[Any, Any]:
    return (
        an_engine(arithmetic(accuracy=0.5), latency=SLOW, tokens_per_delta=8, **options),
        an_engine(judge(lambda p: len(p.messages[0].content) % 7 / 7), name="judge"),
    )


def run(case: tuple[Any, dict[str, Any], Budget | None], seed: int = 3, **options: Any) -> tuple[Ran, Any]:
    policy, params, budget = case
    small, verifier = engines()
    large = an_engine(arithmetic(accuracy=0.9), name="large", latency=SLOW)
    job = run_job(
        policy, small, large=large, roles={"verifier": verifier}, params=params, budget=budget, seed=seed, **options
    )
    return run_virtual(job), small


def next_life(ran: Ran, rows: list[JournalRow], policy: Any) -> tuple[Any, Any, int]:
    small, verifier = engines()
    large = an_engine(arithmetic(accuracy=0.9), name="large", latency=SLOW)
    result, store = run_virtual(resumed(ran, rows, policy, small, large=large, roles={"verifier": verifier}))
    counted = 0
    for engine in (small, verifier, large):
        assert not engine.live_requests
        counted += engine._counters.prompt_tokens + engine._counters.output_tokens
    return result, store, counted


def paid_by(rows: list[JournalRow]) -> int:
    return Recording(rows).usage.total_tokens


@pytest.mark.parametrize("case", POLICIES, ids=lambda case: getattr(case[0], "__name__", case[0]) + str(case[2] or ""))
def test_a_journal_cut_at_any_row_resumes_to_the_same_end(case: tuple[Any, dict[str, Any], Budget | None]) -> None:
    ran, _ = run(case)
    assert ran.rows[-1].kind == "final"
    caps_bind = ran.result.limited_by is not None
    for cut in range(len(ran.rows)):
        rows = ran.rows[:cut]
        result, store, counted = next_life(ran, rows, case[0])
        lost = result.usage.lost_tokens
        assert paid_by(rows) + counted <= result.usage.total_tokens, f"cut {cut}: all that was done was charged"
        stored = run_virtual(store.get(result.job_id))
        assert stored.state is result.state
        assert stored.result is not None
        assert stored.result["total_tokens"] == result.usage.total_tokens
        assert Recording(run_virtual(store.read(result.job_id))).usage.total_tokens == result.usage.total_tokens
        if caps_bind:
            budget = result.budget
            assert result.usage.output_tokens <= (budget.max_output_tokens or 0), "never above caps"
            continue
        assert_same(result, ran.result)
        assert result.usage.total_tokens - lost == ran.result.usage.total_tokens, f"cut {cut}: paid = whole + lost"
        assert result.usage.model_calls >= ran.result.usage.model_calls


@pytest.mark.parametrize("case", [POLICIES[2], POLICIES[7]], ids=["adaptive_consistency", "mixed"])
def test_a_journal_of_two_lives_cut_again_resumes_all_the_same(case: tuple[Any, dict[str, Any], None]) -> None:
    ran, _ = run(case)
    first_cut = next(i for i, row in enumerate(ran.rows) if row.kind == "mark") + 1
    _, store, _ = next_life(ran, ran.rows[:first_cut], case[0])
    rows = run_virtual(store.read(ran.result.job_id))
    assert any(row.kind == "lost" for row in rows)
    for cut in range(first_cut, len(rows), 3):
        result, _, _ = next_life(ran, rows[:cut], case[0])
        assert_same(result, ran.result)
        lost = result.usage.lost_tokens
        assert result.usage.total_tokens - lost == ran.result.usage.total_tokens
        assert lost >= Recording(rows[:cut]).usage.lost_tokens


@pytest.mark.parametrize("case", POLICIES[:7], ids=lambda case: case[0])
def test_every_policy_replays_from_its_journal_alone(case: tuple[Any, dict[str, Any], Budget | None]) -> None:
    async def work() -> None:
        store = DurableMemory(clock=VirtualClock())
        small, verifier = engines()
        async with Orchestrator(
            small, large=an_engine(name="large"), roles={"verifier": verifier}, store=store, clock=VirtualClock()
        ) as ttc:
            result = await ttc.solve(PROBLEM, policy=case[0], params=case[1], seed=5)
        asked = len(small.log)
        async with Orchestrator.offline(store=store) as offline:
            again = await offline.replay(result.job_id)
        assert_same(again, result)
        assert len(small.log) == asked

    run_virtual(work())


@pytest.mark.parametrize(
    ("case", "params", "position"),
    [
        (POLICIES[1], {"n": 5}, 0),
        (POLICIES[2], {"max_samples": 7, "parallel": 2, "confidence": 0.99999}, None),
        (POLICIES[5], {"num_ignores": 4}, 6),
    ],
)
def test_changed_parameters_diverge_and_the_position_is_named(case: Any, params: Any, position: int | None) -> None:
    ran, _ = run(case)

    async def work() -> Any:
        async with Orchestrator(an_engine(), clock=VirtualClock()) as ttc:
            spec = JobSpec.from_json(ran.record.spec | {"params": params})
            return await life_of(ttc, "x", spec, case[0], ran.rows, epoch=1, is_offline=True)

    result = run_virtual(work())
    assert isinstance(result.error, ReplayDiverged)
    assert position is None or result.error.fields()["position"] == position
    assert f"action {result.error.fields()['position']}" in str(result.error)


def test_divergence_in_the_middle_stops_the_resumed_job_and_leaves_nothing_running() -> None:
    def other(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 6), parallel=2)
        yield Next(stream)
        yield Expand([query.root], 1)

    def original(query: Any, ctx: Any) -> Any:
        stream = yield Start(Expand([query.root], 6), parallel=2)
        yield Next(stream)
        yield Next(stream)
        return "done"

    ran, _ = run((original, {}, None))
    cut = [row.kind for row in ran.rows].index("final")
    result, _, _ = next_life(ran, ran.rows[:cut], other)
    assert isinstance(result.error, ReplayDiverged)
    assert result.error.fields()["position"] == 2


def test_a_policy_that_cannot_be_imported_cannot_be_resumed_or_replayed_by_others() -> None:
    async def work() -> None:
        store = DurableMemory(clock=VirtualClock())

        def closure(query: Any, ctx: Any) -> Any:
            yield Expand([query.root], 1)
            raise RuntimeError

        async with Orchestrator(an_engine(), store=store, clock=VirtualClock()) as ttc:
            with pytest.raises(Exception, match="RuntimeError"):
                await ttc.solve(PROBLEM, policy=closure)
            (record,) = await store.list_jobs()
            for action in (ttc.resume, ttc.replay):
                with pytest.raises(JobConflict):
                    await action(record.id)

    run_virtual(work())


def test_an_old_controller_that_lost_its_lease_stops_and_writes_nothing_more() -> None:
    async def work() -> None:
        store = DurableMemory(clock=VirtualClock())
        small, _ = engines()
        async with Orchestrator(small, store=store, clock=VirtualClock()) as ttc:
            task = asyncio.create_task(ttc.solve(PROBLEM, policy="self_consistency", params={"n": 8}))
            await asyncio.sleep(0.05)
            (record,) = await store.list_jobs()
            await store.claim(record.id, "another:1:2", lease_s=60, force=True)
            before = len(await store.read(record.id))
            with pytest.raises(LeaseLost):
                await task
            assert len(await store.read(record.id)) == before
            assert (await store.get(record.id)).state is JobState.RUNNING
            assert not small.live_requests

    run_virtual(work())


class FailsAt(DurableMemory):
    """Fails at one append and at all later ones, until it is repaired."""

    def __init__(self, number: int) -> None:
        super().__init__(clock=VirtualClock())
        self.left = number
        self.engine: Any = None
        self.asked_at_failure = -1

    async def append(self, *args: Any, **kwargs: Any) -> None:
        if self.left <= 0:
            if self.asked_at_failure < 0:
                self.asked_at_failure = len(self.engine.log)
            raise StoreFailed("the disk is full")
        self.left -= 1
        await super().append(*args, **kwargs)


@pytest.mark.parametrize("case", [POLICIES[1], POLICIES[2]], ids=["self_consistency", "adaptive_consistency"])
def test_a_store_that_fails_at_any_append_ends_the_job_and_resume_finishes_it(
    case: tuple[Any, dict[str, Any], None],
) -> None:
    async def work() -> None:
        policy, params, _ = case
        whole = None
        for number in range(1000):
            store = FailsAt(number)
            small, _ = engines()
            store.engine = small
            async with Orchestrator(small, store=store, clock=VirtualClock()) as ttc:
                try:
                    whole = await ttc.solve(PROBLEM, policy=policy, params=params, seed=3)
                except StoreFailed:
                    assert not small.live_requests
                    assert len(small.log) <= store.asked_at_failure + 1, "nothing is dispatched after it"
                else:
                    break
                (record,) = await store.list_jobs()
                assert not record.state.is_terminal
                store.left = 10**6
                result = await ttc.resume(record.id)
                stored = await store.get(record.id)
                assert stored.state is JobState.SUCCEEDED
                results.append(result)
                store.check_integrity()
        assert whole is not None
        assert number > 5
        for result in results:
            assert_same(result, whole)
            assert result.usage.total_tokens - result.usage.lost_tokens == whole.usage.total_tokens

    results: list[Any] = []
    run_virtual(work())


def test_a_cancelled_task_leaves_the_job_to_be_resumed_at_once() -> None:
    async def work() -> None:
        store = DurableMemory(clock=VirtualClock())
        small, _ = engines()
        async with Orchestrator(small, store=store, clock=VirtualClock()) as ttc:
            whole = await ttc.solve(PROBLEM, policy="self_consistency", params={"n": 5}, seed=2)
            for pause in (0.0, 0.001, 0.02, 0.03, 0.05, 0.1, 0.15):
                task = asyncio.create_task(ttc.solve(PROBLEM, policy="self_consistency", params={"n": 5}, seed=2))
                await asyncio.sleep(pause)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not small.live_requests
                record = (await store.list_jobs(limit=1))[0]
                if record.id == whole.job_id:
                    continue  # cancelled before it was even created
                assert record.state is JobState.QUEUED
                async with Orchestrator(small, store=store, clock=VirtualClock()) as other:
                    result = await other.resume(record.id)
                assert_same(result, whole)

    run_virtual(work())


def test_a_cancelled_task_of_a_policy_that_nobody_can_import_is_a_cancelled_job() -> None:
    async def work() -> None:
        def closure(query: Any, ctx: Any) -> Any:
            yield Expand([query.root], 5)

        store = DurableMemory(clock=VirtualClock())
        small, _ = engines()
        async with Orchestrator(small, store=store, clock=VirtualClock()) as ttc:
            task = asyncio.create_task(ttc.solve(PROBLEM, policy=closure))
            await asyncio.sleep(0.03)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (record,) = await store.list_jobs()
            assert record.state is JobState.CANCELLED

    run_virtual(work())


def test_compute_is_not_run_again_by_a_replay() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        value = yield Compute(sum, ([1, 2, 3],))
        return Answer(str(value))

    async def real() -> Ran:
        return await run_job(policy, an_engine())

    ran = asyncio.run(real())
    assert ran.result.text == "6"


@pytest.mark.parametrize("after", [0, 20, 45])
def test_a_job_whose_engine_failed_resumes_from_any_row_to_the_same_texts(after: int) -> None:
    fault = Fault(after_tokens=after)

    async def first_life() -> Ran:
        engine = an_engine(
            arithmetic(accuracy=0.5), latency=SLOW, tokens_per_delta=8, faults=on_calls({0: fault, 2: fault})
        )
        return await run_job("self_consistency", engine, params={"n": 3}, seed=4)

    ran = run_virtual(first_life())
    assert sum(row.kind == "dispatch" for row in ran.rows) > 2
    texts = [node.text for node in ran.result.tree]
    for cut in range(len(ran.rows)):
        result, _, counted = next_life(ran, ran.rows[:cut], "self_consistency")
        assert [node.text for node in result.tree] == texts
        assert paid_by(ran.rows[:cut]) + counted <= result.usage.total_tokens
