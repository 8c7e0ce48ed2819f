"""Serve's router for trees, with replicas that only say how much they have to do."""

import asyncio
import time
import warnings
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.workers.ray.placing import Reason
from orchestrator.workers.ray.routing import ReplicaGone, Routing

pytest.importorskip("ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
    from ray.serve._private.request_router.common import PendingRequest

    from orchestrator.workers.ray.affinity import AffinityRouter, router_config, routing_of
    from orchestrator.workers.ray.placing import AffinitySettings

DEPLOYMENT = DeploymentID("engine", "app")


class Replica:
    """What the router knows of a replica; one of `load` None does not answer."""

    max_ongoing_requests = 64
    node_id = "node"
    availability_zone = None

    def __init__(self, name: str, load: int | None) -> None:
        self.replica_id = ReplicaID(name, deployment_id=DEPLOYMENT)
        self.load = load
        self.num_asked = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.num_asked += 1
        if self.load is None:
            await asyncio.sleep(10 * deadline_s)
        assert self.load is not None
        return self.load


class Known:
    """A router that knows the loads of some replicas already."""

    def __init__(self, loads: Mapping[str, int | None], *, known: Mapping[str, int], **settings: Any) -> None:
        self.replicas = {name: Replica(name, load) for name, load in loads.items()}
        self.router: Any = AffinityRouter(DEPLOYMENT, DeploymentHandleSource.UNKNOWN, use_replica_queue_len_cache=True)
        self.router.initialize_state(**AffinitySettings(**settings).model_dump())
        for name, load in known.items():
            self.router.replica_queue_len_cache.update(self.replicas[name].replica_id, load)

    async def choose(self, routing: Routing) -> str:
        """The one replica for a call."""
        (found,) = await self.router.choose_replicas(list(self.replicas.values()), pending(routing))
        (replica,) = found
        return str(replica.replica_id.unique_id)


def pending(*arguments: Any, **named: Any) -> PendingRequest:
    return PendingRequest(args=list(arguments), kwargs=named, metadata=RequestMetadata("r", "internal"))


async def test_replicas_that_were_idle_for_long_are_asked_before_a_tree_stays_on_a_busy_one():
    asked = Known({"x": 40, "y": 0}, known={})
    home = await asked.choose(Routing("a"))
    (other,) = {"x", "y"} - {home}
    asked = Known({home: 40, other: 0}, known={home: 40})
    routing = Routing("a")
    assert await asked.choose(routing) == other
    assert routing.reason == Reason.MOVED
    assert asked.replicas[other].num_asked == 1


async def test_nobody_is_asked_while_a_trees_replica_has_little_to_do():
    idle = Known({"x": 0, "y": 0}, known={"x": 3, "y": 3})
    home = await idle.choose(Routing("a"))
    (other,) = {"x", "y"} - {home}
    asked = Known({home: 3, other: 0}, known={home: 3})
    assert await asked.choose(Routing("a")) == home
    assert asked.replicas[other].num_asked == 0


async def test_a_replica_that_does_not_answer_delays_one_call_and_not_the_next(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AffinityRouter, "queue_len_response_deadline_s", 0.01)
    found = Known({"x": 40, "y": 40}, known={"x": 40, "y": 40})
    home = await found.choose(Routing("a"))
    (other,) = {"x", "y"} - {home}
    asked = Known({home: 40, other: None}, known={home: 40})
    assert [await asked.choose(Routing("a")) for _ in range(5)] == [home] * 5
    assert asked.replicas[other].num_asked == 1


async def test_a_call_for_a_replica_that_is_gone_fails_and_is_sent_to_nobody():
    asked = Known({"x": 0}, known={"x": 0})
    request = pending(Routing("a", only="gone"))
    await asked.router.choose_replicas(list(asked.replicas.values()), request)
    with pytest.raises(ReplicaGone, match="gone"):
        request.future.result()


async def test_a_call_that_is_told_to_fail_may_have_been_given_up_already():
    asked = Known({"x": 0}, known={"x": 0})
    request = pending(Routing("a", only="gone"))
    request.future.cancel()
    await asked.router.choose_replicas(list(asked.replicas.values()), request)
    assert request.future.cancelled()


async def test_a_request_that_waits_is_asked_about_again_only_after_a_pause():
    asked = Known({"x": 0, "y": 0}, known={})
    request = pending(Routing("a"))
    await asked.router.choose_replicas(list(asked.replicas.values()), request)
    assert request.routing_context.should_backoff, "Serve would ask again at once, for ever"


async def test_calls_without_a_routing_are_spread():
    asked = Known({"x": 0, "y": 0, "z": 0}, known={})
    (found,) = await asked.router.choose_replicas(list(asked.replicas.values()), pending("arguments", of="others"))
    assert len(found) == 2


async def test_the_caller_is_told_who_took_its_call():
    asked = Known({"x": 0}, known={})
    request = pending("model", routing=(routing := Routing("a")))
    asked.router.on_request_routed(request, asked.replicas["x"].replica_id, None)
    assert routing.replica == "x"
    assert routing_of(request) is routing


async def test_the_wait_of_a_call_counts_from_when_it_came():
    full = {"x": 64, "y": 60}
    found = Known(full, known=full, abs_threshold=100, new_threshold=100, patience_s=5.0)
    home = await found.choose(Routing("a"))
    (other,) = {"x", "y"} - {home}
    asked = Known({home: 64, other: 60}, known={home: 64, other: 60}, abs_threshold=100, new_threshold=100)
    late = pending(Routing("a"))
    late.created_at = time.time() - 1.0
    ((replica,),) = await asked.router.choose_replicas(list(asked.replicas.values()), late)
    assert replica.replica_id.unique_id == other


def test_serve_is_given_the_settings_as_plain_values():
    config = router_config(AffinitySettings(abs_threshold=5), stats_period_s=2.0)
    assert config.get_request_router_class() is AffinityRouter
    assert AffinitySettings(**config.request_router_kwargs).abs_threshold == 5
    assert config.request_routing_stats_period_s == 2.0
