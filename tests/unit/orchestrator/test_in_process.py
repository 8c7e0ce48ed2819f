from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import pytest

import orchestrator
from orchestrator import Budget, Event, JobState, Ledger, Message, Orchestrator, Sampling, solve_sync
from orchestrator.actions import Answer, Expand
from orchestrator.errors import BudgetTooSmall, CallerError, InvalidRequest, JobConflict, StoreFailed, UnknownName
from orchestrator.job import stored_result
from orchestrator.stores.memory import MemoryStore
from orchestrator.testing import Latency, ScriptedEngine, arithmetic, babble
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

PROBLEM = "What is 3 + 4 * 2 - 5?"


def an_engine(script: Any = None, **options: Any) -> ScriptedEngine:
    return ScriptedEngine(script or arithmetic(accuracy=1.0), **{"clock": VirtualClock(), **options})


def ttc_of(engine: Any = None, **options: Any) -> Orchestrator:
    return Orchestrator(engine or an_engine(), **{"clock": VirtualClock(), **options})


def test_a_problem_is_solved_and_its_record_kept() -> None:
    async def work() -> None:
        async with ttc_of() as ttc:
            result = await ttc.solve(PROBLEM, policy="single", labels={"who": "me"})
            assert result.text == "6"
            record = await ttc.store.get(result.job_id)
            assert record.state is JobState.SUCCEEDED
            assert record.spec["labels"] == {"who": "me"}
            stored = stored_result(record)
            assert stored is not None
            assert (stored.text, stored.usage.total_tokens) == (result.text, result.usage.total_tokens)

    run_virtual(work())


WRONG: list[dict[str, Any]] = [
    {"problem": 5},
    {"problem": ""},
    {"problem": " \n"},
    {"problem": "\ud800"},
    {"policy": "no_such_policy"},
    {"policy": "no.such.module:policy"},
    {"policy": 5},
    {"policy": lambda query, ctx: "x"},
    {"policy": "self_consistency", "params": {"n": 0}},
    {"policy": "self_consistency", "params": {"m": 3}},
    {"policy": "self_consistency", "params": [("n", 3)]},
    {"policy": "self_consistency", "params": {"n": object()}},
    {"params": {"n": {1, 2}}},
    {"budget": 500},
    {"budget": {"max_output_tokens": 5}},
    {"budget": "tokens=many"},
    {"budget": Budget(target_confidence=0.9), "policy": "single"},
    {"verifier": "oracle", "policy": "best_of_n"},
    {"verifier": 5, "policy": "best_of_n"},
    {"verifier": "generative", "policy": "single"},
    {"policy": "cascade"},
    {"answer": "no such kind"},
    {"messages": []},
    {"messages": "hello"},
    {"messages": [{"role": "user", "content": "x"}]},
    {"messages": 5},
    {"sampling": 0.5},
    {"seed": -1},
    {"seed": "1"},
    {"seed": True},
    {"max_sample_tokens": 0},
    {"max_sample_tokens": "many"},
    {"labels": {"a": 1}},
    {"labels": "a"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_callers_mistake_raises_before_anything_is_spent_or_written(wrong: dict[str, Any]) -> None:
    async def work() -> None:
        engine = an_engine()
        options = {"problem": PROBLEM, **wrong}
        async with ttc_of(engine) as ttc:
            with pytest.raises(CallerError) as caught:
                await ttc.solve(**options)
            assert str(caught.value)
            assert await ttc.store.list_jobs() == []
        assert not engine.log

    run_virtual(work())


def test_an_orchestrator_must_be_opened_first() -> None:
    async def work() -> None:
        ttc = ttc_of()
        with pytest.raises(InvalidRequest, match="open the orchestrator"):
            await ttc.solve(PROBLEM, policy="single")
        async with ttc:
            await ttc.solve(PROBLEM, policy="single")
        with pytest.raises(InvalidRequest, match="open the orchestrator"):
            await ttc.solve(PROBLEM, policy="single")
        async with ttc:
            assert (await ttc.solve(PROBLEM, policy="single")).text == "6"

    run_virtual(work())


@pytest.mark.parametrize("model", [5, object(), ["a"]])
def test_a_model_of_a_wrong_type_is_refused(model: Any) -> None:
    async def work() -> None:
        with pytest.raises(CallerError):
            async with ttc_of(model):
                pass

    run_virtual(work())


def test_unknown_roles_are_refused() -> None:
    async def work() -> None:
        with pytest.raises(UnknownName):
            async with ttc_of(roles={"helper": an_engine()}):
                pass

    run_virtual(work())


def test_one_engine_may_play_two_roles_and_two_engines_of_one_name_are_told_apart() -> None:
    async def work() -> None:
        engine = an_engine()
        async with ttc_of(engine, large=engine, roles={"verifier": an_engine()}) as ttc:
            assert set(ttc.fleet.models) == {"scripted", "scripted#2"}
            assert ttc.fleet.resolve("small")[1] is ttc.fleet.resolve("large")[1] is engine
            assert ttc.fleet.resolve("verifier")[0] == "scripted#2"
        async with ttc_of("scripted:say=hello", large="scripted:say=hello") as ttc:
            assert ttc.fleet.resolve("small")[1] is ttc.fleet.resolve("large")[1], "opened once"

    run_virtual(work())


def test_what_was_passed_in_stays_open_and_what_was_opened_is_closed() -> None:
    async def work() -> None:
        engine, store = an_engine(), MemoryStore(clock=VirtualClock())
        async with ttc_of(engine, large="scripted:arithmetic", store=store) as ttc:
            _, opened = ttc.fleet.resolve("large")
        await ttc.aclose()
        assert (await engine.health()).is_ready
        assert await store.list_jobs() == []
        assert not (await opened.health()).is_ready

    run_virtual(work())


def test_a_stream_ends_with_its_result() -> None:
    async def work() -> None:
        async with ttc_of() as ttc:
            events = [event async for event in ttc.stream(PROBLEM, policy="single")]
            assert events[0].kind == "started"
            assert events[-1].kind == "result"
            assert events[-1].data["result"].text == "6"
            seqs = [event.seq for event in events if event.seq is not None]
            assert seqs == list(range(len(seqs)))

    run_virtual(work())


@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_leaving_a_stream_early_cancels_the_job(number: int) -> None:
    async def work() -> None:
        engine = an_engine(babble(), latency=Latency(token_s=0.01), tokens_per_delta=1)
        async with ttc_of(engine) as ttc:
            seen = 0
            async with aclosing(ttc.stream(PROBLEM, policy="self_consistency")) as events:
                async for _ in events:
                    seen += 1
                    if seen == number:
                        break
            (record,) = await ttc.store.list_jobs()
            assert record.state is JobState.CANCELLED
            assert not ttc.running
            assert not engine.live_requests

    run_virtual(work())


def test_cancelling_the_reader_of_a_stream_cancels_the_job() -> None:
    async def work() -> None:
        engine = an_engine(babble(), latency=Latency(token_s=0.01))
        async with ttc_of(engine) as ttc:

            async def read() -> None:
                async for _ in ttc.stream(PROBLEM, policy="self_consistency"):
                    pass

            task = asyncio.create_task(read())
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(1)
            assert (await ttc.store.list_jobs())[0].state is JobState.CANCELLED
            assert not engine.live_requests

    run_virtual(work())


def test_a_stream_raises_a_callers_mistake_and_tells_a_run_failure_in_its_result() -> None:
    async def work() -> None:
        async with ttc_of() as ttc:
            with pytest.raises(InvalidRequest):
                async for _ in ttc.stream(PROBLEM, policy="single", budget=5):
                    pass

            def fails(query: Any, ctx: Any) -> Any:
                yield Expand([query.root], 1, max_tokens=3)
                raise ValueError("a bug")

            events = [event async for event in ttc.stream(PROBLEM, policy=fails)]
            assert "a bug" in str(events[-1].data["result"].error)

    run_virtual(work())


def test_a_stream_whose_store_fails_at_once_raises() -> None:
    class Broken(MemoryStore):
        async def create(self, record: Any, **options: Any) -> None:
            raise StoreFailed("no disk")

    async def work() -> None:
        async with ttc_of(store=Broken()) as ttc:
            with pytest.raises(StoreFailed):
                async for _ in ttc.stream(PROBLEM, policy="single"):
                    pass

    run_virtual(work())


def test_many_problems_are_solved_at_once_and_failures_are_yielded() -> None:
    async def work() -> None:
        engine = an_engine(latency=Latency(token_s=0.01))
        async with ttc_of(engine) as ttc:
            problems = ["What is 1 + 1?", "", "What is 2 + 2?", "What is 3 + 3?"]
            found = {i: result async for i, result in ttc.solve_many(problems, concurrency=2, policy="single")}
            assert isinstance(found[1], InvalidRequest)
            assert [getattr(found[i], "text", None) for i in (0, 2, 3)] == ["2", "4", "6"]
            with pytest.raises(InvalidRequest):
                async for _ in ttc.solve_many(problems, concurrency=0):
                    pass
            async with aclosing(ttc.solve_many(problems * 10, concurrency=3, policy="single")) as results:
                async for _ in results:
                    break
            assert not ttc.running
            assert not engine.live_requests

    run_virtual(work())


def test_two_hundred_jobs_run_at_once_under_one_cap() -> None:
    async def work() -> None:
        tenant = Ledger(Budget(max_output_tokens=20_000), name="tenant")
        engine = an_engine(latency=Latency(prefill_s=0.01, token_s=0.001, jitter=0.5), keep_log=False)
        async with ttc_of(engine, ledger=tenant) as ttc:
            problems = [f"What is {n} + 1?" for n in range(200)]
            jobs = ttc.solve_many(problems, concurrency=200, policy="self_consistency", params={"n": 3})
            results = [result async for _, result in jobs]
        assert len(results) == 200
        assert tenant.spent.output_tokens <= 20_000
        assert tenant.spent.output_tokens == (await engine.health()).output_tokens
        assert tenant.reserved.to_json() == {}

    run_virtual(work())


def test_closing_with_live_jobs_cancels_them_and_waits_for_their_results() -> None:
    async def work() -> None:
        engine, store = an_engine(latency=Latency(token_s=0.01)), MemoryStore(clock=VirtualClock())
        ttc = ttc_of(engine, store=store)
        async with ttc:
            tasks = [asyncio.create_task(ttc.solve(PROBLEM, policy="self_consistency")) for _ in range(3)]
            await asyncio.sleep(0.3)
        for task in tasks:
            assert (await task).state is JobState.CANCELLED
        assert {job.state for job in await store.list_jobs()} == {JobState.CANCELLED}
        assert not engine.live_requests

    run_virtual(work())


def test_cancelling_a_job_that_does_not_run_here_is_false() -> None:
    async def work() -> None:
        async with ttc_of() as ttc:
            assert ttc.cancel("nobody") is False
            with pytest.raises(UnknownName):
                await ttc.resume("nobody")
            with pytest.raises(UnknownName):
                await ttc.replay("nobody")
            result = await ttc.solve(PROBLEM, policy="single")
            assert ttc.cancel(result.job_id) is False
            with pytest.raises(JobConflict):
                await ttc.reply(result.job_id, "hello")
            with pytest.raises(JobConflict):
                await ttc.resume(result.job_id)

    run_virtual(work())


def test_a_budget_is_read_from_text_and_a_small_one_is_refused() -> None:
    async def work() -> None:
        async with ttc_of() as ttc:
            result = await ttc.solve(PROBLEM, policy="single", budget="tokens=500,calls=3")
            assert result.budget == Budget(max_output_tokens=500, max_model_calls=3)
            with pytest.raises(BudgetTooSmall):
                await ttc.solve(PROBLEM, policy="single", budget="tokens=3")

    run_virtual(work())


def test_the_callers_conversation_and_sampling_reach_the_model() -> None:
    async def work() -> None:
        engine = an_engine()
        async with ttc_of(engine) as ttc:
            await ttc.solve(
                PROBLEM,
                policy="single",
                messages=[Message("user", "What is 1 + 1?")],
                sampling=Sampling(temperature=0.4),
                max_sample_tokens=77,
            )
        (request, *_) = engine.log
        assert request.prompt.messages == (Message("user", "What is 1 + 1?"),)
        assert request.sampling.temperature == 0.4
        assert request.samples[0].max_tokens == 77

    run_virtual(work())


def test_a_job_can_be_cancelled_from_the_first_event_on() -> None:
    async def work() -> None:
        async with ttc_of() as ttc:

            def stop(event: Event) -> None:
                if event.kind == "started":
                    assert ttc.cancel(event.data["job_id"])

            result = await ttc.solve(PROBLEM, policy="single", on_event=stop)
            assert result.state is JobState.CANCELLED
            assert result.usage.total_tokens == 0

    run_virtual(work())


def test_an_offline_orchestrator_has_no_model() -> None:
    async def work() -> None:
        async with Orchestrator.offline(store=MemoryStore()) as ttc:
            with pytest.raises(InvalidRequest, match="offline"):
                await ttc.solve(PROBLEM, policy="single")

    run_virtual(work())


def simple(query: Any, ctx: Any) -> Any:
    samples = yield Expand([query.root], 1)
    return Answer(samples[0].answer)


def test_code_without_a_loop_can_solve_and_code_with_one_is_told_to_await() -> None:
    assert solve_sync(PROBLEM, model=ScriptedEngine(arithmetic(accuracy=1.0)), policy=simple).text == "6"

    async def inside() -> None:
        with pytest.raises(InvalidRequest):
            solve_sync(PROBLEM, model=an_engine())

    asyncio.run(inside())


def test_everything_that_is_exported_exists_and_is_sorted() -> None:
    assert list(orchestrator.__all__) == sorted(orchestrator.__all__)
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None
    namespace: dict[str, Any] = {}
    exec("from orchestrator import *", namespace)
    assert set(orchestrator.__all__) <= set(namespace)


HEAVY = (
    "llama_cpp",
    "math_verify",
    "sympy",
    "aiohttp",
    "ray",
    "vllm",
    "redis",
    "fastapi",
    "langchain_core",
    "rich",
    "click",
    "uvicorn",
    "scipy",
    "torch",
    "antlr4",
    "numpy",
)


def test_importing_the_library_pulls_in_nothing_heavy() -> None:
    code = f"import sys, orchestrator; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
