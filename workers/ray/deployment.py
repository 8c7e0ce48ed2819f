"""From a model of the fleet file to the Serve application that runs it.

Everything that keeps replicas alive is Serve's: it starts them, asks them for their health, restarts and scales them.
Models that are placed with another are opened in the same replica: a process has the same node and the same
accelerator for sure, which neither two deployments nor the bundles of a placement group have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import FleetFile, ModelEntry
from orchestrator.fleet_file.opening import engine_of
from orchestrator.workers.ray.placing import AffinitySettings
from orchestrator.workers.ray.seats import Seat

if TYPE_CHECKING:
    from ray.serve import Application

DEPLOYMENT = "engine"
"""The one deployment of an application."""

_HEALTH_PERIOD_S = 10.0
_HEALTH_TIMEOUT_S = 30.0
_FAREWELL_S = 60.0
"""A replica that is to go has so long to finish what it works on; what is left is retried elsewhere."""
_START_ATTEMPTS = 4
_MEMORY_OF_SHARE = 0.95
"""Of the memory that a share of an accelerator stands for, so much is given to the engine."""


def application_name(name: str, *, namespace: str) -> str:
    """The Serve application of a model."""
    return f"{namespace}.{name}"


def host_of(fleet: FleetFile, name: str) -> str:
    """The model in whose replicas a model runs: its own, unless it is placed with another."""
    return fleet.models[name].placed_with or name


def application(
    fleet: FleetFile,
    name: str,
    *,
    runtime_env: Mapping[str, Any] | None = None,  # Any: as Ray takes it
    openers: Mapping[str, str] | None = None,
) -> Application:
    """The application of a model and of those placed with it; to be run with ``route_prefix=None``.

    Args:
        fleet: The fleet.
        name: A model that is not itself placed with another.
        runtime_env: Environment of the replicas, as Ray takes it.
        openers: ``module:function`` by model, for models that are opened in another way than by their text.

    Raises:
        InvalidRequest: Ray cannot give the replica what it needs.
    """
    from ray import serve

    from orchestrator.workers.ray.replica import EngineReplica

    deployed = serve.deployment(name=DEPLOYMENT, **options(fleet, name, runtime_env=runtime_env))(EngineReplica)
    made: Application = deployed.bind(*seats(fleet, name, openers=openers or {}))
    return made


def seats(fleet: FleetFile, name: str, *, openers: Mapping[str, str]) -> list[Seat]:
    """What each replica opens."""
    company = (name, *fleet.company_of(name))
    return [Seat(member, _dumped(fleet.models[member]), openers.get(member, "")) for member in company]


def options(
    fleet: FleetFile,
    name: str,
    *,
    runtime_env: Mapping[str, Any] | None = None,  # Any: as Ray takes it
) -> dict[str, Any]:  # Any: as Serve takes them
    """The options of a model's deployment.

    Raises:
        InvalidRequest: Ray cannot give the replica what it needs.
    """
    from orchestrator.workers.ray.affinity import router_config

    entry = fleet.models[name]
    company = [entry, *(fleet.models[other] for other in fleet.company_of(name))]
    max_ongoing = sum(member.max_ongoing for member in company)
    actor: dict[str, Any] = {"num_cpus": sum(member.cpus for member in company)}
    if gpus := gpus_of(fleet, name):
        actor["num_gpus"] = gpus
    kinds = {member.accelerator.kind for member in company if member.accelerator.kind is not None}
    if len(kinds) > 1:
        raise InvalidRequest(
            f"models.{name} and what is placed with it need {' and '.join(sorted(kinds))}, but a replica has one kind",
            field=f"models.{name}.accelerator.kind",
        )
    if kinds:
        actor["accelerator_type"] = kinds.pop()
    if runtime_env:
        actor["runtime_env"] = dict(runtime_env)
    return {
        "ray_actor_options": actor,
        "max_ongoing_requests": max_ongoing,
        "max_queued_requests": -1 if entry.max_queued is None else entry.max_queued,
        "health_check_period_s": _HEALTH_PERIOD_S,
        "health_check_timeout_s": _HEALTH_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": _FAREWELL_S,
        "max_constructor_retry_count": _START_ATTEMPTS,
        "request_router_config": router_config(AffinitySettings(**entry.affinity)),
        **_scale(entry, max_ongoing),
    }


def gpus_of(fleet: FleetFile, name: str) -> float:
    """Accelerators of one replica: its model's, and those of what is placed with it.

    Raises:
        InvalidRequest: They are no share of one accelerator, and not one model's alone.
    """
    company = (name, *fleet.company_of(name))
    shares = {member: fleet.models[member].accelerator.gpus for member in company}
    taking = {member: gpus for member, gpus in shares.items() if gpus}
    total = round(sum(taking.values()), 4)
    if len(taking) > 1 and total > 1:
        listing = ", ".join(f"{member}: {gpus:g}" for member, gpus in taking.items())
        raise InvalidRequest(
            f"models that are placed together share one accelerator, so their gpus come to 1 at most ({listing}); give "
            "each a share, or leave `with` away",
            field=f"models.{name}.accelerator.gpus",
            value=total,
        )
    return total


def _scale(entry: ModelEntry, max_ongoing: int) -> dict[str, Any]:  # Any: as Serve takes them
    if entry.replicas.is_fixed:
        return {"num_replicas": entry.replicas.min}
    given = entry.autoscale
    target = None if given is None else given.target_ongoing
    scaling: dict[str, Any] = {
        "min_replicas": entry.replicas.min,
        "max_replicas": entry.replicas.max,
        "initial_replicas": max(1, entry.replicas.min),
        "target_ongoing_requests": max_ongoing / 2 if target is None else target,
    }
    if given is not None:
        scaling["upscale_delay_s"] = given.upscale_delay_s
        scaling["downscale_delay_s"] = given.downscale_delay_s
        scaling["look_back_period_s"] = given.look_back_s
    return {"autoscaling_config": scaling}


def _dumped(entry: ModelEntry) -> dict[str, Any]:  # Any: JSON values
    """The entry as JSON values, with the share of memory that goes with a share of an accelerator."""
    data = entry.model_dump(mode="json", by_alias=True)
    named = entry.engine.get("gpu_memory_utilization", entry.engine.get("kv_cache_gib"))
    if entry.accelerator.is_shared and engine_of(entry.model) == "vllm" and named is None:
        share = round(_MEMORY_OF_SHARE * entry.accelerator.gpus, 4)
        data["engine"] = {**data["engine"], "gpu_memory_utilization": share}
    return data
