"""A fleet on a cluster: what is deployed of its file, what has changed, how its replicas are, and its end.

Ray Serve keeps the replicas; here they are only asked for. What was asked for last is kept by the cluster itself, so
that any machine can look at the fleet, scale it and take it down without the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from orchestrator.errors import ServiceFailed, UnknownName
from orchestrator.fleet_file import FleetFile, Replicas
from orchestrator.workers.ray.deployment import DEPLOYMENT, application, application_name
from orchestrator.workers.ray.fleet_changes import Changes, changes_between, package_version, version_of
from orchestrator.workers.ray.fleet_status import FAILED, RUNNING, UNHEALTHY, Json, ModelStatus, status_of, text_of
from orchestrator.workers.ray.serve_module import imported_serve

_KV_NAMESPACE = "ttc"
_CALL_S = 30.0
_REPLICA_CALL_S = 5.0
_LOOK_AGAIN_S = 0.2


def _versioned(fleet: FleetFile, name: str, *, salt: str) -> Any:  # Any: Ray is not imported before it is needed
    """The application, in the version of all that a replica has to be started anew for.

    Serve gives every deployment of the Python API a new version, and would start all replicas anew to add one; there is
    no public way to say which version it is, other than `serve.deploy` with a file and an import path.
    """
    made = application(fleet, name)
    made._bound_deployment._version = version_of(fleet, name, salt=salt)
    return made


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
        noted = self._noted()
        return None if noted is None else FleetFile.model_validate(noted["fleet"])

    def changes(self, fleet: FleetFile) -> Changes:
        """What `deploy` would do.

        A model is started anew, too, if it has failed, or if another version of this package has deployed it.
        """
        noted = self._noted()
        if noted is None:
            return changes_between(None, fleet, present=self._present())
        found = changes_between(self.deployed(), fleet, present=self._present())
        is_upgrade = noted["package"] != package_version()
        ill = {one.name for one in self._statuses(found.same) if one.state in {FAILED, UNHEALTHY}}
        anew = tuple(name for name in (*found.scaled, *found.same) if is_upgrade or name in ill)
        return found._replace(
            changed=(*found.changed, *anew),
            scaled=tuple(name for name in found.scaled if name not in anew),
            same=tuple(name for name in found.same if name not in anew),
        )

    def deploy(self, fleet: FleetFile) -> Changes:
        """Asks for what the file says and the cluster does not have yet; returns before it is there."""
        serve = imported_serve()
        changes = self.changes(fleet)
        wanted = (*changes.added, *changes.changed, *changes.scaled)
        salts = dict((self._noted() or {}).get("salts", {}))
        salts |= dict.fromkeys((*changes.added, *changes.changed), str(time.time()))
        serve.start(proxy_location="Disabled")
        if wanted:
            serve.run_many(
                [
                    serve.RunTarget(
                        _versioned(fleet, name, salt=salts.get(name, "")),
                        name=self._application(name),
                        route_prefix=None,
                    )
                    for name in wanted
                ],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
        for name in changes.removed:
            serve.delete(self._application(name), _blocking=False)
        self._note(fleet, salts)
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
        return self._statuses(fleet.models, fleet)

    def _statuses(self, names: Iterable[str], fleet: FleetFile | None = None) -> list[ModelStatus]:
        """Of some models, with counters where the fleet is given."""
        applications = self._details()["applications"]
        found: list[ModelStatus] = []
        counted: dict[str, tuple[int, dict[str, dict[str, float]]]] = {}
        for name in names:
            host = name if fleet is None else fleet.models[name].placed_with or name
            told = applications.get(self._application(host))
            if host not in counted:
                counted[host] = (0, {}) if fleet is None else _counters(told)
            ongoing, engines = counted[host]
            found.append(status_of(name, told, ongoing=ongoing, engine=engines.get(name, {})))
        return found

    def remove(self, *, drain_s: float = 120.0) -> list[str]:
        """Takes all models down: no new requests, those under way end first; returns the models.

        Args:
            drain_s: It waits so long for the replicas that run to end; those that never ran are not waited for.
        """
        from ray.experimental.internal_kv import _internal_kv_del

        serve = imported_serve()
        names = sorted(self._present())
        leaving = self._replicas(names, states={RUNNING})
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

    def _noted(self) -> Json | None:
        from ray.experimental.internal_kv import _internal_kv_get

        kept = _internal_kv_get(self._key, namespace=_KV_NAMESPACE)
        noted: Json | None = None if kept is None else json.loads(kept)
        return noted

    def _note(self, fleet: FleetFile, salts: Mapping[str, str]) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        kept = {name: salt for name, salt in salts.items() if name in fleet.models}
        noted = {
            "package": package_version(),
            "fleet": fleet.model_dump(mode="json", by_alias=True),
            "salts": kept,
        }
        _internal_kv_put(self._key, json.dumps(noted).encode(), namespace=_KV_NAMESPACE)

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
            if states is None or text_of(replica["state"]) in states
        }

    def _details(self) -> Json:
        import ray
        from ray.exceptions import RayError
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

        try:
            # Any: Ray's types say that an actor which they do not know never answers
            controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        except ValueError:
            return {"applications": {}}
        try:
            told: Json = ray.get(controller.get_serve_instance_details.remote(), timeout=_CALL_S)
        except RayError as error:
            raise ServiceFailed(f"Ray Serve does not answer: {type(error).__name__}", status=None) from None
        return told


def _counters(told: Json | None) -> tuple[int, dict[str, dict[str, float]]]:
    """Requests under way in an application's running replicas, and counters by model, added up."""
    import ray
    from ray.exceptions import RayError
    from ray.serve._private.constants import SERVE_NAMESPACE

    deployment = (told or {"deployments": {}})["deployments"].get(DEPLOYMENT)
    running = [one for one in (deployment or {"replicas": ()})["replicas"] if text_of(one["state"]) == RUNNING]
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
