"""Jobs on a Ray cluster of two nodes: the same results as in process, and what becomes of them when replicas die."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Budget, Orchestrator
from orchestrator.bench.ray_nodes import Nodes
from orchestrator.config import RaySettings, read_settings
from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
)
from orchestrator.errors import EngineFailed, InvalidRequest, ServiceFailed, UnknownName
from orchestrator.fleet_file import FleetFile
from orchestrator.fleet_file.member import as_member
from orchestrator.testing import arithmetic
from orchestrator.testing.policy_contract import installed_policies
from orchestrator.testing.scripted_abilities import ScriptedAll
from orchestrator.testing.transcript import Transcript
from orchestrator.verifier import Candidate

ray = pytest.importorskip("ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    from ray import serve

    from orchestrator.workers.ray.cluster import MEMBERSHIP
    from orchestrator.workers.ray.deployment import application, application_name
    from orchestrator.workers.ray.engine import open_engine
    from orchestrator.workers.ray.joining import joined
    from orchestrator.workers.ray.opening import open_ray

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300)]

ENGINES_TO_HOST = str(Path(__file__).parents[1] / "unit" / "workers" / "hosted")
PROBLEM = "What is 3 + 4 * 2 - 5 + 6 * 7?"
OPENERS = {
    "all": "engines_to_host:scorer_and_embedder",
    "slow": "engines_to_host:slow",
    "babbler": "engines_to_host:slow_babbler",
    "few": "engines_to_host:slow_babbler",
    "confessing": "engines_to_host:confessing",
}
FLEET = FleetFile.model_validate(
    {
        "models": {
            "all": {"model": "scripted:arithmetic", "replicas": 2, "cpus": 0.5},
            "slow": {"model": "scripted:arithmetic", "replicas": 2, "cpus": 1},
            "babbler": {"model": "scripted:babble", "cpus": 0.1},
            "few": {"model": "scripted:babble", "cpus": 0.1, "max_ongoing": 2, "max_queued": 1},
            "confessing": {"model": "scripted:babble", "cpus": 0.1},
            "target": {"model": "scripted:say=target", "cpus": 0.1},
            "draft": {"model": "scripted:say=draft", "cpus": 0.1, "with": "target"},
            "broken": {"model": "no-such-model.gguf", "cpus": 0.1},
        },
        "cluster": {"ray": "auto"},
    }
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes(2, 2, variables={"PYTHONPATH": ENGINES_TO_HOST}) as started, joined(started.address, namespace="ttc"):
        serve.start(proxy_location="Disabled", logging_config=serve.schema.LoggingConfig(log_level="ERROR"))
        yield started
        serve.shutdown()


@asynccontextmanager
async def running(nodes: Nodes, name: str, *, member: str = "", **options: Any) -> AsyncIterator[Any]:
    """An engine for a model that runs as long as the context lasts. Any: its class depends on its abilities."""
    app = application_name(name, namespace="ttc")
    await asyncio.to_thread(serve.run, application(FLEET, name, openers=OPENERS), name=app, route_prefix=None)
    try:
        engine = await opened(nodes, member or name, **options)
        try:
            yield engine
        finally:
            await engine.aclose()
    finally:
        await asyncio.to_thread(serve.delete, app)


async def opened(nodes: Nodes, name: str, **options: Any) -> Engine:
    given = RaySettings(address=nodes.address, **{"isolated": False, "open_s": 60, "wait_s": 60, **options})
    return await open_ray(name, read_settings().model_copy(update={"ray": given}))


def asking(name: str, *max_tokens: int, text: str = "Talk.", **options: Any) -> GenerateRequest:
    samples = tuple(SampleSpec(seed, limit) for seed, limit in enumerate(max_tokens))
    return GenerateRequest(request_id=name, prompt=Prompt((Message("user", text),)), samples=samples, **options)


async def until(condition: Callable[[], Any], *, within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110  # replicas have no events
            await asyncio.sleep(0.05)


async def failure_of(engine: Engine, request: GenerateRequest, begun: asyncio.Semaphore) -> EngineFailed:
    """The error with which a stream ends after its first delta."""
    is_first = True
    try:
        async for event in engine.generate(request):
            if isinstance(event, Delta) and is_first:
                is_first = False
                begun.release()
    except EngineFailed as error:
        return error
    raise AssertionError("the stream ended well")


# The same as in process

PARAMS: dict[str, dict[str, Any]] = {
    "a_star": {"expansion": 2, "max_expansions": 3},
    "ab_mcts": {"max_samples": 4},
    "adaptive_consistency": {"max_samples": 6},
    "beam_search": {"width": 4, "expansion": 2, "max_depth": 3},
    "best_of_n": {"n": 4},
    "budget_forcing": {"max_thinking_tokens": 60},
    "cascade": {"n_large": 2},
    "dvts": {"width": 4, "expansion": 2, "max_depth": 3},
    "early_stopping": {"window": 3, "max_samples": 6},
    "ets": {"width": 4, "max_depth": 3},
    "lookahead": {"width": 4, "expansion": 2, "max_depth": 2, "lookahead": 1},
    "mcts": {"num_simulations": 4},
    "particle_filtering": {"width": 3, "max_depth": 3},
    "rebase": {"width": 4, "max_depth": 3},
    "self_consistency": {"n": 5},
    "single": {},
    "tree_of_thoughts": {"beam": 2, "proposals": 2, "max_depth": 2},
}


def fraction_of_vowels(candidate: Candidate) -> float:
    """A score that depends on the text, and on nothing else."""
    text = candidate.text
    return sum(letter in "aeiou" for letter in text) / max(len(text), 1)


async def results(engine: Engine) -> dict[str, tuple[Any, ...]]:
    """By policy: the answer, the tree, and the tokens of jobs with the same seeds."""
    found = {}
    async with Orchestrator(engine, large=engine, store="memory:") as ttc:
        ttc.register_verifier("vowels", fraction_of_vowels)
        for name, spec in installed_policies().items():
            options: dict[str, Any] = {"verifier": "vowels"} if "verifier" in spec.params_type.model_fields else {}
            result = await ttc.solve(
                PROBLEM, policy=name, params=PARAMS[name], budget=Budget(max_output_tokens=4000), seed=7, **options
            )
            usage = result.raise_for_error().usage
            answer = (result.text, result.confidence, result.num_samples)
            found[name] = (answer, result.tree.to_json(), usage.output_tokens, usage.prompt_tokens)
    return found


async def test_all_policies_find_the_same_on_the_cluster_as_in_process(nodes: Nodes) -> None:
    here = await results(as_member(ScriptedAll(arithmetic()), name="all"))
    async with running(nodes, "all") as engine:
        there = await results(engine)
        await engine.check_integrity()
    assert here.keys() == PARAMS.keys()
    for name, result in here.items():
        assert there[name] == result, name


# What dies


async def test_a_replica_killed_under_streams_fails_them_retryably_and_another_is_started(nodes: Nodes) -> None:
    async with running(nodes, "babbler") as engine:
        before = await engine.replicas()
        begun = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(failure_of(engine, asking(f"r{k}", 3000, 3000), begun)) for k in range(4)]
            for _ in tasks:
                await begun.acquire()
            await engine.health()
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
        errors = [task.result() for task in tasks]
        assert all(error.is_retryable and error.model == "babbler" for error in errors)
        assert {"has died" in error.message for error in errors} == {True}
        served = await Transcript.of(engine, asking("next", 20))
        assert served.only.num_tokens == 20
        health = await engine.health()
        assert health.is_ready
        assert health.requests >= 5, "totals go on over the deaths of replicas"
        assert not (await engine.replicas()).keys() & before.keys()
        await engine.check_integrity()


async def test_jobs_whose_replicas_are_killed_at_random_all_finish_and_nothing_is_paid_twice(nodes: Nodes) -> None:
    rng = random.Random(20)
    async with running(nodes, "slow") as engine, Orchestrator(engine, store="memory:") as ttc:

        async def solved(number: int) -> tuple[str | None, int, int]:
            result = await ttc.solve(
                f"What is {number} + 4 * 2?",
                policy="self_consistency",
                params={"n": 3},
                budget=Budget(max_output_tokens=2000),
                seed=number,
            )
            in_tree = sum(node.output_tokens for node in result.tree)
            usage = result.raise_for_error().usage
            assert usage.output_tokens == in_tree + usage.lost_tokens, "what is paid is in the tree, or was lost"
            return result.text, usage.output_tokens, usage.lost_tokens

        async def killer() -> None:
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0.3, 0.8))
                await until(engine.replicas)  # those that were killed are being started again
                present = await engine.replicas()
                os.kill(present[rng.choice(sorted(present))], signal.SIGKILL)

        async with asyncio.TaskGroup() as group:
            group.create_task(killer())
            jobs = [group.create_task(solved(number)) for number in range(20)]
    assert [job.result()[0] for job in jobs] == [str(number + 8) for number in range(20)]


async def test_an_abort_in_an_engine_is_a_retryable_failure_and_what_it_should_not_raise_is_none(nodes: Nodes) -> None:
    async with running(nodes, "confessing") as engine:
        with pytest.raises(EngineFailed, match="never heard of it") as raised:
            await Transcript.of(engine, asking("raise", 10, text="raise"))
        assert not raised.value.is_retryable
        assert "Traceback" not in str(raised.value.fields())
        with pytest.raises(EngineFailed, match="has died") as aborted:
            await Transcript.of(engine, asking("abort", 10, text="abort"))
        assert aborted.value.is_retryable


# Leaving, and waiting


async def test_cancelling_reaches_the_engine_within_a_step_and_counts_are_exact(nodes: Nodes) -> None:
    async with running(nodes, "babbler") as engine:
        transcript = Transcript(engine, asking("gone", 3000))
        async for event in transcript.events():
            if isinstance(event, Delta) and transcript.num_tokens < 60:
                continue
            engine.cancel("gone")
        assert transcript.only.reason is FinishReason.CANCELLED
        assert transcript.num_tokens < 60 + 2 * MAX_UNREAD_TOKENS
        assert (await engine.health()).output_tokens == transcript.num_tokens


async def test_a_reader_that_leaves_stops_the_work(nodes: Nodes) -> None:
    async with running(nodes, "babbler") as engine:
        async with aclosing(engine.generate(asking("left", 3000, 3000))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break

        async def is_idle() -> bool:
            return not (await engine.health()).live_sequences

        await until(is_idle)
        assert (await engine.health()).output_tokens < 100
        assert (await Transcript.of(engine, asking("left", 5))).num_tokens == 5, "the id may be used again"


async def test_who_waits_for_a_full_replica_may_cancel_or_run_out_of_time_and_is_served_in_the_end(
    nodes: Nodes,
) -> None:
    async with running(nodes, "few") as engine, asyncio.TaskGroup() as group:
        begun = asyncio.Semaphore(0)

        async def talking(name: str) -> Finished:
            async for event in engine.generate(asking(name, 100_000)):
                if isinstance(event, Delta):
                    begun.release()
            assert isinstance(event, Finished)
            return event

        first = [group.create_task(talking(f"first-{number}")) for number in range(2)]
        for _ in range(2):
            await begun.acquire()
        asyncio.get_running_loop().call_later(0.3, engine.cancel, "one")
        cancelled = [event async for event in engine.generate(asking("one", 5, 5))]
        late = [event async for event in engine.generate(asking("two", 5, deadline_s=0.3))]
        assert cancelled == [Prefilled(0), *(Finished(k, FinishReason.CANCELLED, 0) for k in range(2))]
        assert late == [Prefilled(0), Finished(0, FinishReason.CANCELLED, 0, "deadline")]
        waiting = [group.create_task(Transcript.of(engine, asking(f"later-{number}", 5))) for number in range(4)]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in waiting)
        for number in range(2):
            engine.cancel(f"first-{number}")
        assert [(await task).num_tokens for task in waiting] == [5, 5, 5, 5], "more than may wait came again"
        assert {(await task).reason for task in first} == {FinishReason.CANCELLED}


async def test_nobody_waits_for_ever_for_replicas_that_are_full(nodes: Nodes) -> None:
    async with running(nodes, "few", wait_s=1.0) as engine, asyncio.TaskGroup() as group:
        first = [group.create_task(Transcript.of(engine, asking(f"first-{number}", 100_000))) for number in range(2)]

        async def is_full() -> bool:
            return (await engine.health()).live_sequences == 2

        await until(is_full)
        with pytest.raises(EngineFailed, match="within 1 s") as caught:
            await Transcript.of(engine, asking("hopeless", 5))
        assert caught.value.is_retryable
        for number in range(2):
            engine.cancel(f"first-{number}")
        assert {(await task).only.reason for task in first} == {FinishReason.CANCELLED}


async def test_a_live_request_id_cannot_be_used_twice_and_what_cannot_travel_is_refused(nodes: Nodes) -> None:
    class Local:
        name = "local"
        num_logprobs = 0

        def __reduce__(self) -> Any:
            raise TypeError("it stays here")

        def watch(self) -> Any:
            raise AssertionError

    async with running(nodes, "babbler") as engine:
        async with aclosing(engine.generate(asking("same", 3000))) as events:
            await anext(events)
            with pytest.raises(InvalidRequest, match="in use"):
                await Transcript.of(engine, asking("same", 5))
        with pytest.raises(InvalidRequest, match="top of modules"):
            await Transcript.of(engine, asking("monitored", 5, monitors=(Local(),)))


# Finding a model


async def test_a_draft_runs_in_the_replica_of_its_target(nodes: Nodes) -> None:
    async with running(nodes, "target") as target:
        app = application_name("target", namespace="ttc")
        assert (await Transcript.of(target, asking("t", 20))).only.text.startswith("target")
        handle = serve.get_deployment_handle("engine", app)
        given = RaySettings(address=nodes.address)
        await MEMBERSHIP.join(given)
        draft = await open_engine("draft", handle, application=app, settings=given)
        assert (await Transcript.of(draft, asking("d", 20))).only.text.startswith("draft")
        assert await draft.replicas() == await target.replicas()
        await draft.aclose()


async def test_a_model_that_is_not_there_is_named_with_those_that_are(nodes: Nodes) -> None:
    with pytest.raises(ServiceFailed, match="ttc fleet up"):
        await opened(nodes, "absent")
    async with running(nodes, "babbler"):
        with pytest.raises(UnknownName) as caught:
            await opened(nodes, "absent")
        assert caught.value.known == ["babbler"]
    with pytest.raises(InvalidRequest, match="ray:NAME"):
        await opened(nodes, "")


async def test_a_node_that_dies_takes_no_job_with_it(nodes: Nodes) -> None:
    async with (
        running(nodes, "slow") as engine,
        Orchestrator(engine, store="memory:") as ttc,
        asyncio.TaskGroup() as group,
    ):
        jobs = [
            group.create_task(
                ttc.solve(
                    f"What is {number} + 4 * 2?",
                    policy="self_consistency",
                    params={"n": 3},
                    budget=Budget(max_output_tokens=2000),
                    seed=number,
                )
            )
            for number in range(12)
        ]

        async def is_busy() -> bool:
            return (await engine.health()).live_sequences > 0

        await until(is_busy)
        nodes.kill(1)
    texts = [job.result().text for job in jobs]
    assert texts == [str(number + 8) for number in range(12)]
    assert nodes.num_nodes == 1
