"""A fleet on a cluster: what is deployed of its file, what has changed, how its replicas are, and its end.

Ray Serve keeps the replicas; here they are only asked for. What was asked for last is kept by the cluster itself, so
that any machine can look at the fleet, scale it and take it down without the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

from orchestrator.errors import ServiceFailed, UnknownName
from orchestrator.fleet_file import FleetFile, ModelEntry, Replicas
from orchestrator.workers.ray.deployment import DEPLOYMENT, application, application_name

_KV_NAMESPACE = "ttc"
_CALL_S = 30.0
_REPLICA_CALL_S = 5.0
_LOOK_AGAIN_S = 0.2
_SCALING = {"replicas", "autoscale", "max_ongoing", "max_queued"}
"""Parts of an entry that change without any replica being started anew."""

READY, STARTING, FAILED, UNHEALTHY, STOPPING, MISSING = (
    "ready",
    "starting",
    "failed",
    "unhealthy",
    "stopping",
    "missing",
)
_STATES = {
    "HEALTHY": READY,
    "UPDATING": STARTING,
    "UPSCALING": READY,
    "DOWNSCALING": READY,
    "UNHEALTHY": UNHEALTHY,
    "DEPLOY_FAILED": FAILED,
}

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """How a model of the fleet is.

    Attributes:
        name: Its name.
        state: ready, starting, failed, unhealthy, stopping or missing.
        target: Replicas that there are to be now.
        replicas: Replicas by state (RUNNING, STARTING, ...).
        message: Why it is not ready; empty if it is.
        num_ended: Replicas that ended lately: failed, or scaled away.
        ongoing: Requests under way in all replicas.
        engine: Counters of the replicas' engines, added up; empty where replicas do not tell.
    """

    name: str
    state: str
    target: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    message: str = ""
    num_ended: int = 0
    ongoing: int = 0
    engine: Mapping[str, float] = field(default_factory=dict)

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of prompt tokens that were cached; None before there are any."""
        prompt = self.engine.get("prompt_tokens", 0)
        return self.engine.get("cached_prompt_tokens", 0) / prompt if prompt else None

    def to_json(self) -> Json:
        """JSON values."""
        return {**asdict(self), "cache_hit_rate": self.cache_hit_rate}


class Changes(NamedTuple):
    """What a fleet file asks for that the cluster does not have; models placed with another count with that one."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


def changes_between(old: FleetFile | None, new: FleetFile, *, present: Collection[str]) -> Changes:
    """From what was deployed last to a file.

    Args:
        old: What was deployed last; None for nothing.
        new: The file.
        present: Models that have an application now.
    """
    groups: dict[str, list[str]] = {"added": [], "changed": [], "scaled": [], "same": []}
    for name in places(new):
        kind = "added" if name not in present or old is None else _change(old, new, name)
        groups[kind].append(name)
    removed = tuple(sorted(name for name in present if name not in places(new)))
    return Changes(removed=removed, **{kind: tuple(names) for kind, names in groups.items()})


def places(fleet: FleetFile) -> tuple[str, ...]:
    """Models that have an application of their own: all that are not placed with another."""
    return tuple(name for name, entry in fleet.models.items() if entry.placed_with is None)


def _change(old: FleetFile, new: FleetFile, name: str) -> str:
    before, after = _group(old, name), _group(new, name)
    if before == after:
        return "same"
    if before.keys() == after.keys() and all(_lasting(before[one]) == _lasting(after[one]) for one in after):
        return "scaled"
    return "changed"


def _group(fleet: FleetFile, name: str) -> dict[str, ModelEntry]:
    return {one: fleet.models[one] for one in (name, *fleet.company_of(name)) if one in fleet.models}


def _lasting(entry: ModelEntry) -> Json:
    return entry.model_dump(mode="json", exclude={*_SCALING, "roles", "prices", "start_timeout_s"})


def _versioned(fleet: FleetFile, name: str) -> Any:  # Any: Ray is not imported before it is needed
    """The application, in the version of all that a replica has to be started anew for.

    Serve gives every deployment of the Python API a new version, and would start all replicas anew to add one; there is
    no public way to say which version it is, other than `serve.deploy` with a file and an import path.
    """
    made = application(fleet, name)
    lasting = {one: _lasting(entry) for one, entry in _group(fleet, name).items()}
    text = json.dumps([version("ttc-orchestrator"), lasting], sort_keys=True)
    made._bound_deployment._version = hashlib.sha256(text.encode()).hexdigest()[:16]
    return made


def _serve() -> Any:  # Any: a module of Ray
    """Ray Serve, imported now, with what it would tell everybody about its work left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
        from ray import serve
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve


class DeployedFleet:
    """The fleet of one namespace on the cluster that this process has joined.

    Args:
        namespace: The fleet's.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._key = f"fleet:{namespace}".encode()

    def deployed(self) -> FleetFile | None:
        """What was asked for last; None if nothing was, or the fleet was taken down."""
        from ray.experimental.internal_kv import _internal_kv_get

        noted = _internal_kv_get(self._key, namespace=_KV_NAMESPACE)
        return None if noted is None else FleetFile.model_validate_json(noted)

    def changes(self, fleet: FleetFile) -> Changes:
        """What `deploy` would do."""
        return changes_between(self.deployed(), fleet, present=self._present())

    def deploy(self, fleet: FleetFile) -> Changes:
        """Asks for what the file says and the cluster does not have yet; returns before it is there."""
        serve = _serve()
        changes = self.changes(fleet)
        wanted = (*changes.added, *changes.changed, *changes.scaled)
        serve.start(proxy_location="Disabled")
        if wanted:
            serve.run_many(
                [
                    serve.RunTarget(_versioned(fleet, name), name=self._application(name), route_prefix=None)
                    for name in wanted
                ],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
        for name in changes.removed:
            serve.delete(self._application(name), _blocking=False)
        self._note(fleet)
        return changes

    def scale(self, name: str, replicas: Replicas) -> FleetFile:
        """Asks for another number of replicas of a model, and of those placed with it; returns before they are there.

        Raises:
            UnknownName: The fleet has no such model.
        """
        fleet = self._required()
        if name not in fleet.models:
            raise UnknownName(kind="model of the fleet", name=name, known=fleet.models)
        host = fleet.models[name].placed_with or name
        models = dict(fleet.models)
        for one in (host, *fleet.company_of(host)):
            autoscale = None if replicas.is_fixed else models[one].autoscale
            models[one] = models[one].model_copy(update={"replicas": replicas, "autoscale": autoscale})
        scaled = fleet.model_copy(update={"models": models})
        self.deploy(scaled)
        return scaled

    def status(self) -> list[ModelStatus]:
        """All models of the fleet, in the file's order; one placed with another is as that one is.

        Raises:
            ServiceFailed: Nothing is deployed, or Serve does not answer.
        """
        fleet = self._required()
        applications = self._details()["applications"]
        found: list[ModelStatus] = []
        counted: dict[str, tuple[int, Json]] = {}
        for name, entry in fleet.models.items():
            host = entry.placed_with or name
            told = applications.get(self._application(host))
            if host not in counted:
                counted[host] = _counters(told)
            ongoing, engines = counted[host]
            found.append(status_of(name, told, ongoing=ongoing, engine=engines.get(name, {})))
        return found

    def remove(self, *, drain_s: float = 120.0) -> list[str]:
        """Takes all models down: no new requests, those under way end first; returns the models.

        Args:
            drain_s: It waits so long for the replicas that run to end; those that never ran are not waited for.
        """
        from ray.experimental.internal_kv import _internal_kv_del

        serve = _serve()
        names = sorted(self._present())
        leaving = self._replicas(names, states={"RUNNING"})
        for name in names:
            serve.delete(self._application(name), _blocking=False)
        deadline = time.monotonic() + drain_s
        while leaving & self._replicas(names) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_S)
        _internal_kv_del(self._key, namespace=_KV_NAMESPACE)
        return names

    def _required(self) -> FleetFile:
        fleet = self.deployed()
        if fleet is None:
            raise ServiceFailed(
                f"no fleet of namespace {self._namespace!r} is up on this cluster; start it with: ttc fleet up FILE",
                status=None,
                is_retryable=False,
            )
        return fleet

    def _note(self, fleet: FleetFile) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(self._key, fleet.model_dump_json(by_alias=True).encode(), namespace=_KV_NAMESPACE)

    def _application(self, name: str) -> str:
        return application_name(name, namespace=self._namespace)

    def _present(self) -> set[str]:
        beginning = self._application("")
        return {name.removeprefix(beginning) for name in self._details()["applications"] if name.startswith(beginning)}

    def _replicas(self, names: Collection[str], *, states: Collection[str] | None = None) -> set[str]:
        """Ids of replicas of some models, in some states or in any."""
        applications = self._details()["applications"]
        return {
            replica["replica_id"]
            for name in names
            for deployment in applications.get(self._application(name), {"deployments": {}})["deployments"].values()
            for replica in deployment["replicas"]
            if states is None or _text(replica["state"]) in states
        }

    def _details(self) -> Json:
        import ray
        from ray.exceptions import RayError
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

        try:
            controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        except ValueError:
            return {"applications": {}}
        try:
            (details,) = ray.get([controller.get_serve_instance_details.remote()], timeout=_CALL_S)
        except RayError as error:
            raise ServiceFailed(f"Ray Serve does not answer: {type(error).__name__}", status=None) from None
        told: Json = details
        return told


def status_of(
    name: str, told: Json | None, *, ongoing: int = 0, engine: Mapping[str, float] | None = None
) -> ModelStatus:
    """A model, from what Serve tells of its application; None if it has none."""
    if told is None:
        return ModelStatus(name=name, state=MISSING, message="it is not deployed; run ttc fleet up again")
    deployment: Json | None = told["deployments"].get(DEPLOYMENT)
    if deployment is None:
        state = FAILED if told["status"] == "DEPLOY_FAILED" else STARTING
        return ModelStatus(name=name, state=state, message=reason_of(told["message"]))
    replicas: dict[str, int] = {}
    for replica in deployment["replicas"]:
        replicas[_text(replica["state"])] = replicas.get(_text(replica["state"]), 0) + 1
    state = STOPPING if _text(told["status"]) == "DELETING" else _STATES.get(_text(deployment["status"]), STARTING)
    target = int(deployment["target_num_replicas"])
    if state == READY and target and not replicas.get("RUNNING"):
        state = STARTING
    return ModelStatus(
        name=name,
        state=state,
        target=target,
        replicas=replicas,
        message="" if state == READY else reason_of(deployment["message"] or told["message"]),
        num_ended=len(deployment.get("recent_dead_replicas", ())),
        ongoing=ongoing,
        engine=engine or {},
    )


_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Za-z_]\w*): (\S.*)$")


def reason_of(message: str) -> str:
    """What a message of Serve comes to, in one line: of a stack trace, what was raised in the end."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if "Traceback" not in message:
        return " ".join(lines)
    ours = [line for line in lines if line.startswith("orchestrator.errors.")]
    for line in reversed(ours or lines):
        if (raised := _RAISED.match(line)) is not None:
            return raised.group(2) if ours else f"{raised.group(1)}: {raised.group(2)}"
    return lines[-1]


def _text(value: object) -> str:
    return str(getattr(value, "value", value))


def _counters(told: Json | None) -> tuple[int, dict[str, dict[str, float]]]:
    """Requests under way in an application's running replicas, and counters by model, added up."""
    import ray
    from ray.exceptions import RayError
    from ray.serve._private.constants import SERVE_NAMESPACE

    deployment = (told or {"deployments": {}})["deployments"].get(DEPLOYMENT)
    running = [one for one in (deployment or {"replicas": ()})["replicas"] if _text(one["state"]) == "RUNNING"]
    calls: list[Any] = []
    for replica in running:
        try:
            actor = ray.get_actor(replica["actor_name"], namespace=SERVE_NAMESPACE)
        except ValueError:
            continue  # it has ended meanwhile
        calls.append((actor.get_num_ongoing_requests.remote(), actor.record_routing_stats.remote()))
    ongoing = 0
    engines: dict[str, dict[str, float]] = {}
    deadline = time.monotonic() + _REPLICA_CALL_S
    for number, counters in calls:
        try:
            left = max(deadline - time.monotonic(), 0.1)
            under_way, told_of = ray.get([number, counters], timeout=left)
        except RayError:
            continue  # one that does not answer is not counted
        ongoing += under_way
        _add(engines, told_of)
    return ongoing, engines


def _add(engines: dict[str, dict[str, float]], told: Json) -> None:
    for name, counters in (told.get("engines") or {}).items():
        sums = engines.setdefault(name, {})
        for counter, value in counters.items():
            if isinstance(value, int | float):
                sums[counter] = sums.get(counter, 0) + value
