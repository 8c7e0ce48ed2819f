"""Calls of trees find their replica in a real Ray cluster: Serve's router, several processes, replicas that die."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from orchestrator.config import RaySettings, read_settings
from orchestrator.engine import Engine, GenerateRequest, Message, Prefilled, Prompt, SampleSpec, Span
from orchestrator.fleet_file import FleetFile
from orchestrator.workers.ray.leases import AffinityCounters
from orchestrator.workers.ray.placing import AffinitySettings, Reason
from orchestrator.workers.ray.routing import ReplicaGone, Routing

ray = pytest.importorskip("ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    from ray import serve

    from orchestrator.workers.ray.affinity import router_config
    from orchestrator.workers.ray.deployment import DEPLOYMENT, application, application_name
    from orchestrator.workers.ray.opening import open_here

pytestmark = [pytest.mark.server, pytest.mark.slow]

NUM_REPLICAS = 3
CAPACITY = 8


def deployment(**settings: Any) -> Any:  # Any: a Serve deployment
    """Replicas that say who they are, and hold each call until it is over."""

    class Replica:
        def __init__(self) -> None:
            self._name = serve.get_replica_context().replica_id.unique_id

        async def call(self, routing: Routing, seconds: float = 0.0) -> tuple[str, int]:
            await asyncio.sleep(seconds)
            return self._name, os.getpid()

        async def stream(self, routing: Routing, num_items: int) -> AsyncIterator[str]:
            for _ in range(num_items):
                await asyncio.sleep(0.01)
                yield self._name

    return serve.deployment(
        Replica,
        name="replica",
        num_replicas=NUM_REPLICAS,
        max_ongoing_requests=CAPACITY,
        health_check_period_s=1,
        ray_actor_options={"num_cpus": 0.1},
        request_router_config=router_config(AffinitySettings(**settings)),
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ttc-", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(
            num_cpus=8,
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=folder,
        )
        serve.start(proxy_location="Disabled", logging_config=serve.schema.LoggingConfig(log_level="ERROR"))
        try:
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


@pytest.fixture(scope="module")
def handle(cluster: None) -> Any:
    settings = {"abs_threshold": 4, "rel_threshold": 1.5, "patience_s": 0.1}
    return serve.run(deployment(**settings).bind(), name="affinity", route_prefix=None)


async def taken(handle: Any, routing: Routing, *, seconds: float = 0.0) -> Routing:
    """A call, and where it went, as the router says; the replica says the same."""
    name, _ = await asyncio.wait_for(handle.call.remote(routing, seconds), 20)
    assert routing.replica == name
    return routing


async def replica_of(handle: Any, tree_id: str, *, salt: str = "", seconds: float = 0.0) -> Routing:
    return await taken(handle, Routing(tree_id, salt), seconds=seconds)


async def test_calls_of_a_tree_go_to_one_replica_and_trees_to_all(handle: Any):
    trees = {f"job-{number}": "" for number in range(20)}
    for tree_id in trees:
        trees[tree_id] = (await replica_of(handle, tree_id)).replica
    for tree_id, replica in trees.items():
        again = await replica_of(handle, tree_id)
        assert (again.replica, again.reason) == (replica, Reason.HELD)
    assert len(set(trees.values())) == NUM_REPLICAS


async def test_another_process_finds_the_same_replicas(handle: Any):
    @ray.remote(num_cpus=0)
    class Elsewhere:
        async def replicas(self, trees: list[str]) -> list[tuple[str, str]]:
            mine = serve.get_deployment_handle("replica", "affinity")
            found = []
            for tree_id in trees:
                routing = Routing(tree_id, "tenant")
                await mine.call.remote(routing)
                found.append((routing.replica, routing.reason))
            return found

    trees = [f"shared-{number}" for number in range(12)]
    here = [(await replica_of(handle, tree_id, salt="tenant")).replica for tree_id in trees]
    elsewhere = await asyncio.wait_for(Elsewhere.remote().replicas.remote(trees), 30)
    assert [replica for replica, _ in elsewhere] == here
    assert {reason for _, reason in elsewhere} == {Reason.HASHED}, "it was found, not remembered"


async def test_a_stream_says_where_it_went_before_its_first_item(handle: Any):
    routing = Routing("job-stream")
    async for name in handle.options(stream=True).stream.remote(routing, 3):
        assert name == routing.replica


async def test_a_tree_with_very_many_calls_is_given_more_replicas(handle: Any):
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(replica_of(handle, "hot", seconds=0.3)) for _ in range(2 * CAPACITY)]
    counts = Counter(task.result().replica for task in running)
    assert len(counts) == NUM_REPLICAS
    assert max(counts.values()) <= CAPACITY
    assert Counter(task.result().reason for task in running)[Reason.MOVED] >= 1


async def test_a_full_cluster_makes_calls_wait_and_loses_none(handle: Any):
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(replica_of(handle, f"tree-{number % 5}", seconds=0.2))
            for number in range(2 * CAPACITY * NUM_REPLICAS)
        ]
    assert Counter(bool(task.result().replica) for task in running) == {True: 2 * CAPACITY * NUM_REPLICAS}


async def test_a_call_for_one_replica_goes_there_or_fails_at_once(handle: Any):
    held = (await replica_of(handle, "job-0")).replica
    for _ in range(5):
        routing = Routing("another tree", only=held)
        name, _ = await asyncio.wait_for(handle.call.remote(routing), 20)
        assert name == held
    with pytest.raises(ReplicaGone):
        await asyncio.wait_for(handle.call.remote(Routing("job-0", only="no such replica")), 20)


async def test_a_release_makes_the_router_forget_the_tree(handle: Any):
    first = await replica_of(handle, "job-released")
    await asyncio.wait_for(handle.call.remote(Routing("job-released", only=first.replica, is_last=True)), 20)
    again = await replica_of(handle, "job-released")
    assert (again.replica, again.reason) == (first.replica, Reason.HASHED)


async def test_a_call_that_is_given_up_while_it_waits_stops_no_other(handle: Any):
    filling = [Routing(f"filling-{number}") for number in range(CAPACITY * NUM_REPLICAS)]
    async with asyncio.TaskGroup() as tasks:
        for routing in filling:
            tasks.create_task(taken(handle, routing, seconds=1.0))
        while not all(routing.replica for routing in filling):  # noqa: ASYNC110  # the router fills them in
            await asyncio.sleep(0.01)
        given_up = Routing("given up")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.call.remote(given_up), 0.1)
        tasks.create_task(replica_of(handle, "patient"))
    assert not given_up.replica
    assert (await replica_of(handle, "afterwards")).replica


async def test_trees_of_a_replica_that_dies_go_to_others_and_all_others_stay(handle: Any):
    trees = [f"orphan-{number}" for number in range(20)]
    before = {tree_id: (await replica_of(handle, tree_id)).replica for tree_id in trees}
    routing = Routing(trees[0])
    victim, pid = await asyncio.wait_for(handle.call.remote(routing), 20)
    os.kill(pid, signal.SIGKILL)
    after = {tree_id: await replica_of(handle, tree_id) for tree_id in trees}
    for tree_id, found in after.items():
        if before[tree_id] == victim:
            assert (found.replica != victim, found.reason) == (True, Reason.RETURNED)
        else:
            assert found.replica == before[tree_id]
    until = time.monotonic() + 20
    while len(serve.status().applications["affinity"].deployments["replica"].replica_states) > 1:
        assert time.monotonic() < until, "the replica was not replaced"
        await asyncio.sleep(0.2)
    assert {tree_id: (await replica_of(handle, tree_id)).replica for tree_id in trees} == {
        tree_id: found.replica for tree_id, found in after.items()
    }, "the replica that came took trees that live"


# Of the engine that calls replicas, and of what they count

NAMESPACE = "affinity-test"
TRUNK = Prompt((Message("user", "A question that all calls of a tree begin with, of some length. " * 4),))


@pytest.fixture(scope="module")
def fleet(cluster: None) -> FleetFile:
    entry = {"model": "scripted:babble", "replicas": 3, "cpus": 0.1, "affinity": {"lease_s": 1.0}}
    fleet = FleetFile.model_validate({"models": {"babble": entry}, "cluster": {"ray": "auto", "namespace": NAMESPACE}})
    serve.run(application(fleet, "babble"), name=application_name("babble", namespace=NAMESPACE), route_prefix=None)
    return fleet


@pytest.fixture
async def engine(fleet: FleetFile) -> AsyncIterator[Engine]:
    settings = read_settings().model_copy(update={"ray": RaySettings(namespace=NAMESPACE)})
    engine = await open_here("babble", settings)
    yield engine
    await engine.aclose()


async def counted() -> list[AffinityCounters]:
    """What came of affinity, as each replica sees it; trees whose lease is over are released by the way."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    details = await controller.get_serve_instance_details.remote()
    name = application_name("babble", namespace=NAMESPACE)
    replicas = details["applications"][name]["deployments"][DEPLOYMENT]["replicas"]
    actors = [ray.get_actor(each["actor_name"], namespace=SERVE_NAMESPACE) for each in replicas]
    return [AffinityCounters.from_json(await actor.record_routing_stats.remote()) for actor in actors]


async def sampled(engine: Engine, tree_id: str, number: int, *, salt: str = "") -> Prefilled:
    """One call of a tree: of its trunk for the first, of a branch from it for the others."""
    request = GenerateRequest(
        request_id=f"{tree_id}/{salt}/{number}",
        prompt=Prompt(TRUNK.messages, (Span(f"Branch {number}. "),)) if number else TRUNK,
        samples=(SampleSpec(number, 4),),
        tree_id=tree_id,
        cache_salt=salt or tree_id,  # what another tree has read does not count
    )
    read = Prefilled(0)
    async for event in engine.generate(request):
        if isinstance(event, Prefilled):
            read = event
    return read


async def test_only_the_first_call_of_a_tree_finds_nothing_in_the_cache(engine: Engine):
    before = sum(await counted(), AffinityCounters())
    for tree in range(6):
        first = await sampled(engine, f"tree-{tree}", 0)
        later = [await sampled(engine, f"tree-{tree}", number) for number in range(1, 6)]
        assert first.cached_tokens == 0
        assert all(read.cached_tokens > 0 for read in later)
    after = sum(await counted(), AffinityCounters())
    assert after.tree_calls - before.tree_calls == 36
    assert after.known_calls - before.known_calls == 30
    assert (after.moved_calls, after.missed_calls, after.spilled_calls) == (0, 0, 0)


async def test_a_tree_that_is_done_is_released_where_it_was_and_nowhere_else(engine: Engine):
    await sampled(engine, "done", 0)
    before = await counted()
    await engine.release("done")
    released = [now.tree_releases - then.tree_releases for then, now in zip(before, await counted(), strict=True)]
    assert sorted(released) == [0, 0, 1]


async def test_what_a_tree_keeps_is_told_with_its_next_call(engine: Engine):
    await sampled(engine, "kept", 0)
    before = sum(await counted(), AffinityCounters())
    await engine.release("kept", keep=[TRUNK])
    assert sum(await counted(), AffinityCounters()).tree_releases == before.tree_releases
    await sampled(engine, "kept", 1)
    await sampled(engine, "kept", 2)
    assert sum(await counted(), AffinityCounters()).tree_releases == before.tree_releases + 1


async def test_a_replica_releases_by_itself_a_tree_that_it_hears_nothing_of(engine: Engine):
    before = sum(await counted(), AffinityCounters())
    await sampled(engine, "silent", 0)
    until = time.monotonic() + 10
    while sum(await counted(), AffinityCounters()).expired_trees == before.expired_trees:
        assert time.monotonic() < until, "its lease of a second does not end"
        await asyncio.sleep(0.2)


async def test_a_tree_is_still_found_after_its_caller_has_left_and_another_came(engine: Engine, fleet: FleetFile):
    await sampled(engine, "resumed", 0)
    settings = read_settings().model_copy(update={"ray": RaySettings(namespace=NAMESPACE)})
    another = await open_here("babble", settings)
    try:
        assert (await sampled(another, "resumed", 1)).cached_tokens > 0
    finally:
        await another.aclose()
