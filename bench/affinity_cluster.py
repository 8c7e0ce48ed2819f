"""A Ray of this machine with the same fleet several times, each routed in its own way, and a look at its replicas."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import Orchestrator
from orchestrator.bench.lab.model_names import REWARD_MODEL
from orchestrator.fleet_file import FleetFile
from orchestrator.local_cluster import forget_local, write_local
from orchestrator.workers.ray import local
from orchestrator.workers.ray.deployment import DEPLOYMENT, application_name
from orchestrator.workers.ray.fleet import DeployedFleet
from orchestrator.workers.ray.fleet_status import READY
from orchestrator.workers.ray.joining import joined
from orchestrator.workers.ray.leases import AffinityCounters

GENERATOR = "small"
_NAMESPACE = "ttc-bench-affinity"
_START_S = 300.0
_CALL_S = 30.0
_CORES = 64
"""Ray's cores are a number to schedule by; replicas of all arms must find room, and only one arm works at a time."""
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to route; `affinity` as in a fleet file."""

    name: str
    affinity: dict[str, bool | int | float]


ON, OFF = Arm("on", {}), Arm("off", {"is_on": False})
BLIND = Arm("on, whatever the load", {"abs_threshold": 1_000_000, "new_threshold": 1_000_000, "patience_s": 3600.0})


@dataclass(slots=True)
class Loads:
    """Calls under way at each replica, looked at again and again."""

    samples: list[list[int]] = field(default_factory=list)

    @property
    def imbalance(self) -> float:
        """The fullest replica's calls over the mean of all, on average over the looks at which there were any."""
        busy = [(max(each), sum(each) / len(each)) for each in self.samples if any(each)]
        return sum(most / mean for most, mean in busy) / len(busy) if busy else float("nan")


class Replicas:
    """The replicas of one arm.

    Args:
        application: Name of the Serve application.
    """

    def __init__(self, application: str) -> None:
        import ray
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)  # Any: Serve's
        details: Any = ray.get(controller.get_serve_instance_details.remote(), timeout=_CALL_S)  # Any: JSON values
        told = details["applications"][application]["deployments"][DEPLOYMENT]["replicas"]
        self._actors = [ray.get_actor(each["actor_name"], namespace=SERVE_NAMESPACE) for each in told]
        self._pids = [int(each["pid"]) for each in told]

    def cpu_s(self) -> float:
        """CPU time of all their threads so far (Linux; proc(5), schedstat)."""
        tasks = [task for pid in self._pids for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    async def counters(self) -> list[AffinityCounters]:
        """What came of affinity, as each sees it."""
        return [AffinityCounters.from_json(told) for told in await self._asked("record_routing_stats")]

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Loads]:
        """Looks at the replicas' loads while the block runs."""
        loads = Loads()

        async def look() -> None:
            while True:
                loads.samples.append(await self._asked("get_num_ongoing_requests"))
                await asyncio.sleep(_LOOK_EVERY_S)

        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look())
            try:
                yield loads
            finally:
                looking.cancel()

    async def _asked(self, method: str) -> list[Any]:  # Any: what the method returns
        coming = [getattr(actor, method).remote() for actor in self._actors]
        async with asyncio.timeout(_CALL_S):
            return [await each for each in coming]


def fleet_of(arm: Arm, *, number: int, num_replicas: int) -> FleetFile:
    """The lab's generator and reward model, in the same replicas, on this machine's Ray."""
    shared: dict[str, Any] = {  # Any: JSON values
        "replicas": num_replicas,
        "cpus": 1,
        "affinity": arm.affinity,
        "max_ongoing": 64,
    }
    models = {
        GENERATOR: {"model": f"lab:{GENERATOR}", "roles": ["small"], **shared},
        REWARD_MODEL: {"model": f"lab:{REWARD_MODEL}", "roles": ["verifier"], "with": GENERATOR, **shared},
    }
    cluster = {"ray": "local", "namespace": f"{_NAMESPACE}-{number}"}
    return FleetFile.model_validate({"models": models, "cluster": cluster})


@contextlib.contextmanager
def deployed(arms: Sequence[Arm], *, num_replicas: int) -> Iterator[dict[str, FleetFile]]:
    """The fleets of the arms, all ready; they and their Ray are ended after it."""
    own = FleetFile.model_validate(
        {
            "models": {GENERATOR: {"model": f"lab:{GENERATOR}"}},
            "cluster": {"ray": "local", "namespace": _NAMESPACE, "cpus": _CORES},
        }
    ).cluster
    fleets = {arm.name: fleet_of(arm, number=number, num_replicas=num_replicas) for number, arm in enumerate(arms)}
    started = local.start(own)
    try:
        with joined(started.address, namespace=_NAMESPACE):
            for fleet in fleets.values():
                write_local(fleet.cluster.namespace, started)
                DeployedFleet(fleet.cluster.namespace).deploy(fleet)
            for fleet in fleets.values():
                _await_ready(fleet, num_replicas)
            yield fleets
    finally:
        for fleet in fleets.values():
            forget_local(fleet.cluster.namespace)
        local.stop(_NAMESPACE)


def _await_ready(fleet: FleetFile, num_replicas: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        (status, *_) = DeployedFleet(fleet.cluster.namespace).status()
        if status.state == READY and status.replicas.get("RUNNING") == num_replicas:
            return
        if time.monotonic() > until or status.state == "failed":
            raise RuntimeError(f"the fleet did not start: {status.state}, {status.message}")
        time.sleep(0.5)


@contextlib.asynccontextmanager
async def opened(fleet: FleetFile) -> AsyncIterator[tuple[Orchestrator, Replicas]]:
    """What runs jobs on a fleet, and its replicas."""
    async with Orchestrator(fleet=fleet) as ttc:
        yield ttc, Replicas(application_name(GENERATOR, namespace=fleet.cluster.namespace))
