"""A fleet's cluster as the command line sees it: where it is, starting it, being on it, and bringing its models up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from orchestrator.api.fleets.checking import demand_of, nodes_of
from orchestrator.api.fleets.placing import shown, taken, unplaced
from orchestrator.config import Settings
from orchestrator.engine import Embeds, Engine, Finished, GenerateRequest, Message, Prompt, RewardsSteps, SampleSpec
from orchestrator.errors import CapabilityMissing, EngineFailed, InvalidRequest, ServiceFailed, TtcError
from orchestrator.fleet_file import LOCAL, FleetFile
from orchestrator.fleet_file.opening import open_entry
from orchestrator.workers.ray import local
from orchestrator.workers.ray.fleet import DeployedFleet
from orchestrator.workers.ray.fleet_status import FAILED, READY, ModelStatus
from orchestrator.workers.ray.joining import ClusterView, joined, view

LOOK_AGAIN_S = 0.5
_PROOF_S = 120.0
_BEGINNING_S = 10.0
"""Serve has begun with what it was told to do so long ago."""
_PROOF_TOKENS = 4

Watch = Callable[[list[ModelStatus]], None]


@contextmanager
def on_cluster(fleet: FleetFile, *, starts: bool = False) -> Iterator[DeployedFleet]:
    """The fleet on its cluster, which this process joins meanwhile.

    Args:
        fleet: The file.
        starts: Start a local Ray that does not run.

    Raises:
        InvalidRequest: The file has no cluster, or this machine cannot join it.
        MissingDependency: Ray is not installed.
        ServiceFailed: The cluster does not run, or cannot be reached.
    """
    address = _address(fleet, starts=starts)
    with joined(address, namespace=fleet.cluster.namespace):
        yield DeployedFleet(fleet.cluster.namespace)


def _address(fleet: FleetFile, *, starts: bool) -> str:
    cluster = fleet.cluster
    if not fleet.has_cluster:
        raise InvalidRequest(
            f"{fleet.shown_path} has no cluster: its models are opened by the commands that use them (ttc serve "
            '--fleet FILE); for replicas on this machine, add [cluster] with ray = "local"',
            field="cluster.ray",
            value="",
        )
    local.require_ray()
    if cluster.ray != LOCAL:
        return cluster.ray
    found = local.start(cluster) if starts else local.running(cluster.namespace)
    if found is None:
        raise ServiceFailed(
            f"the fleet's Ray does not run on this machine; start it with: ttc fleet up {fleet.shown_path}",
            status=None,
            is_retryable=False,
        )
    return found.address


def look(fleet: FleetFile) -> ClusterView:
    """What the cluster has now; a local Ray is not started for that.

    Raises:
        TtcError: As `on_cluster` does.
    """
    with on_cluster(fleet):
        return view(fleet.cluster.ray)


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that did not come up.

    Attributes:
        name: Its name.
        reason: Why.
    """

    name: str
    reason: str


def await_ready(
    deployed: DeployedFleet, fleet: FleetFile, settings: Settings, *, before: Mapping[str, ModelStatus], watch: Watch
) -> list[Failure]:
    """Waits until every model has answered a real request, or cannot; returns those that cannot.

    Args:
        deployed: What was asked for.
        fleet: The same as a file.
        settings: The configuration.
        before: How models that are started anew were before that; what is still so says nothing yet.
        watch: Is shown how the models are, several times a second, until they are as they stay.
    """
    start = time.monotonic()
    deadlines = {name: time.monotonic() + entry.start_timeout_s for name, entry in fleet.models.items()}
    failures: dict[str, Failure] = {}
    proven: set[str] = set()
    while True:
        statuses = deployed.status()
        watch(statuses)
        for status in statuses:
            name = status.name
            if name in proven or name in failures:
                continue
            if _is_there(status, fleet, before.get(name)):
                try:
                    asyncio.run(prove(name, fleet, settings))
                    proven.add(name)
                except TtcError as error:
                    failures[name] = Failure(name, f"its replicas run, and a request fails: {error.message}")
            elif status.state == FAILED and not _is_old(status, before.get(name), since=start):
                failures[name] = Failure(name, status.message)
            elif time.monotonic() > deadlines[name]:
                waited = fleet.models[name].start_timeout_s
                why = status.message or _why_waiting(fleet, name)
                failures[name] = Failure(name, f"not ready after {waited:g} s: {why}")
        if len(proven) + len(failures) == len(fleet.models):
            return list(failures.values())
        time.sleep(LOOK_AGAIN_S)


def _is_there(status: ModelStatus, fleet: FleetFile, before: ModelStatus | None) -> bool:
    """Whether as many replicas run as are to be there at least, and none of those that are to go."""
    is_whole = len(status.ids) >= fleet.models[status.name].replicas.min
    return status.state == READY and is_whole and (before is None or not set(status.ids) & set(before.ids))


def _is_old(status: ModelStatus, before: ModelStatus | None, *, since: float) -> bool:
    """Whether a failure is that of the attempt before, which Serve tells of until it has begun with the next."""
    is_same = before is not None and (status.state, status.message) == (before.state, before.message)
    return is_same and time.monotonic() < since + _BEGINNING_S


def _why_waiting(fleet: FleetFile, name: str) -> str:
    """Why a model's replicas do not start, where nobody says: mostly no node has room for one."""
    host = fleet.models[name].placed_with or name
    nodes = nodes_of(view(fleet.cluster.ray))
    one = replace(demand_of(fleet, host), count=1)
    if unplaced([one], nodes):
        return f"no node has room for a replica, which takes {taken(one)}; there are: {', '.join(map(shown, nodes))}"
    return "its replicas are still starting, or wait for room that others take; see the logs of Ray"


async def prove(name: str, fleet: FleetFile, settings: Settings) -> None:
    """Sends a model a real request, the way jobs do, from this process, which is in the cluster.

    Raises:
        TtcError: It was not answered.
    """
    here = settings.model_copy(update={"ray": settings.ray.model_copy(update={"isolated": False})})
    try:
        async with asyncio.timeout(_PROOF_S):
            engine = await open_entry(name, fleet, settings=here)
            try:
                await _ask(engine, frozenset(fleet.models[name].roles))
            finally:
                await engine.aclose()
    except TimeoutError:
        raise EngineFailed(f"no answer within {_PROOF_S:g} s", model=name) from None


async def _ask(engine: Engine, roles: frozenset[str]) -> None:
    prompt = Prompt((Message("user", "1+1"),))
    if roles == {"embedder"} and isinstance(engine, Embeds):
        await engine.embed(["1+1"])
        return
    if roles == {"verifier"} and isinstance(engine, RewardsSteps):
        try:
            await engine.reward_steps(prompt, ["2"])
        except CapabilityMissing:  # it judges in words
            pass
        else:
            return
    request = GenerateRequest(
        request_id=f"proof-{time.monotonic_ns()}",
        prompt=prompt,
        samples=(SampleSpec(seed=0, max_tokens=_PROOF_TOKENS),),
        deadline_s=_PROOF_S,
    )
    has_finished = False
    async for event in engine.generate(request):
        has_finished = has_finished or isinstance(event, Finished)
    if not has_finished:
        raise EngineFailed("its stream ended without a reply", model=engine.describe().name)
