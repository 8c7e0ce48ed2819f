"""Whether a fleet file fits, before anything starts: what keeps it from starting, what will be short, what to know."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from orchestrator import registry
from orchestrator.api.fleets.findings import Finding, Level, error, note, warning
from orchestrator.api.fleets.footprint import Footprint, Where, footprint
from orchestrator.api.fleets.memory import memory_findings
from orchestrator.api.fleets.placing import Demand, Node, shown, taken, unplaced
from orchestrator.config import Settings
from orchestrator.errors import InvalidRequest, TtcError
from orchestrator.fleet_file import LOCAL, FleetFile, ModelEntry
from orchestrator.fleet_file.opening import engine_of, engine_settings
from orchestrator.workers.ray.deployment import gpus_of
from orchestrator.workers.ray.joining import ClusterView
from orchestrator.workers.ray.placing import AffinitySettings

_PACKAGES = {"llama_cpp": ("llama_cpp", "local"), "lab": ("llama_cpp", "local"), "vllm": ("vllm", "vllm")}
"""Engines that need a package of an extra."""
_RAY = (2, 60)
_WRITERS = frozenset({"small", "large", "draft", "target"})


@dataclass(frozen=True, slots=True)
class Checked:
    """A model that can be opened, as far as that can be told.

    Attributes:
        settings: With its engine arguments.
        footprint: What it takes.
    """

    settings: Settings
    footprint: Footprint


def check(fleet: FleetFile, settings: Settings, *, cluster: ClusterView | None = None) -> list[Finding]:
    """All that can be said of a fleet without starting it.

    Args:
        fleet: The file.
        settings: The configuration of this process.
        cluster: What its cluster has; None if it was not asked.
    """
    findings: list[Finding] = []
    checked: dict[str, Checked] = {}
    for name, entry in fleet.models.items():
        of_engine = list(_engine_findings(name, entry, fleet))
        findings += of_engine
        if any(finding.level is Level.ERROR and finding.place.endswith(".model") for finding in of_engine):
            continue
        try:
            own = engine_settings(entry, settings, name=name)
            checked[name] = Checked(own, footprint(entry, own))
        except TtcError as refused:
            findings.append(error(_place_of(refused, name), refused.message))
    findings += _role_findings(fleet, checked)
    findings += _weight_findings(fleet, checked)
    findings += _price_findings(fleet)
    findings += memory_findings(fleet, {name: (one.settings, one.footprint) for name, one in checked.items()})
    if fleet.has_cluster:
        findings += _cluster_findings(fleet, cluster)
    else:
        findings += _embedded_findings(fleet)
    return findings


def _place_of(refused: TtcError, name: str) -> str:
    field = refused.field if isinstance(refused, InvalidRequest) else ""
    return field if field.startswith("models.") else f"models.{name}.model"


# -- engines -----------------------------------------------------------------------------------------------------------


def _engine_findings(name: str, entry: ModelEntry, fleet: FleetFile) -> Iterator[Finding]:
    place = f"models.{name}.model"
    engine = engine_of(entry.model)
    if engine == "ray":
        yield error(place, f"{entry.model!r} is a model of a fleet, and this is the fleet's file; say what it runs")
        return
    head = entry.model.partition(":")[0]
    looks_like_engine = ":" in entry.model and head.isidentifier() and len(head) > 1
    if looks_like_engine and head not in registry.names("engine"):
        yield error(place, f"there is no engine {head!r}; known: {', '.join(registry.names('engine'))} (ttc engines)")
    package, extra = _PACKAGES.get(engine, ("", ""))
    if package and find_spec(package) is None:
        way = f"pip install 'ttc-orchestrator[{extra}]'"
        if not fleet.has_cluster or fleet.cluster.ray == LOCAL:
            yield error(place, f"engine {engine!r} needs the package {package!r}, which is not installed: {way}")
        else:
            yield note(place, f"the nodes need the package {package!r}, which is not installed here: {way}")
    try:
        AffinitySettings.model_validate(entry.affinity)
    except ValidationError as refused:
        first = refused.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        yield error(f"models.{name}.affinity.{key}", f"{first.get('input')!r} is not valid: {first['msg']}")


# -- roles -------------------------------------------------------------------------------------------------------------


def _role_findings(fleet: FleetFile, checked: Mapping[str, Checked]) -> Iterator[Finding]:
    roles = fleet.roles
    if "small" not in roles:
        names = ", ".join(fleet.models)
        yield error(
            "models", f"no model has the role small, which jobs use unless they name one; give it to one of: {names}"
        )
    for role, name in roles.items():
        known = checked.get(name)
        if known is not None and role in _WRITERS and not known.footprint.writes:
            yield error(f"models.{name}.roles", f"the model judges and does not write, so it cannot be {role}")
    if "large" not in roles:
        yield note("models", "no model has the role large; policies that escalate (cascade) need it")
    if ("draft" in roles) != ("target" in roles):
        there, missing = ("draft", "target") if "draft" in roles else ("target", "draft")
        stand_in = {"target": "large", "draft": "small"}[missing]
        yield note(f"models.{roles[there]}.roles", f"there is a {there} and no {missing}; {stand_in} stands in for it")
    yield from _vocabulary_findings(fleet, checked)


def _vocabulary_findings(fleet: FleetFile, checked: Mapping[str, Checked]) -> Iterator[Finding]:
    """A draft's tokens are its target's tokens, or nothing of it can be used."""
    roles = fleet.roles
    draft = roles.get("draft")
    target = roles.get("target", roles.get("large"))
    if draft is None or target is None:
        return
    mine, theirs = (checked[name].footprint.vocabulary if name in checked else "" for name in (draft, target))
    if not mine or not theirs:
        yield note(
            f"models.{draft}", f"whether its vocabulary is that of its target {target!r} is seen when both are up"
        )
    elif mine != theirs:
        yield error(f"models.{draft}", f"its vocabulary is not that of its target {target!r}; use models of one family")


# -- weights and prices ------------------------------------------------------------------------------------------------


def _weight_findings(fleet: FleetFile, checked: Mapping[str, Checked]) -> Iterator[Finding]:
    for name, one in checked.items():
        entry, where = fleet.models[name], one.footprint.where
        place = f"models.{name}.model"
        size = one.footprint.weight_bytes
        amount = "" if size is None else f"{size / 1e6:,.0f} MB, "
        if where is Where.TO_PULL:
            way = "ttc fleet up pulls it" if _is_pulled_by_us(entry) else "the engine pulls it when it starts"
            if fleet.has_cluster and fleet.cluster.ray != LOCAL and _is_pulled_by_us(entry):
                way = f"run on each node: ttc models pull {entry.model}"
            message = f"its weights are not on this machine ({amount}{way})"
            is_late = one.settings.offline or bool(os.environ.get("HF_HUB_OFFLINE"))
            yield (
                warning(place, f"{message}; offline is set, so nothing is pulled") if is_late else note(place, message)
            )
        elif where is Where.HERE and fleet.has_cluster and fleet.cluster.ray != LOCAL and "/" in entry.model:
            yield note(place, "the path has to be there on every node that may run it")


def _is_pulled_by_us(entry: ModelEntry) -> bool:
    return engine_of(entry.model) == "llama_cpp"


def _price_findings(fleet: FleetFile) -> Iterator[Finding]:
    for name, entry in fleet.models.items():
        prices, place = entry.prices, f"models.{name}.prices"
        if prices.accelerator_hour_usd is not None and prices.output_tokens_per_s is None:
            yield warning(
                place,
                "dollars per accelerator hour become a price of tokens with output_tokens_per_s (ttc plan tells it); "
                "until then jobs pay nothing for this model, and caps in dollars do not hold it back",
            )
        elif prices.accelerator_hour_usd is not None and not entry.accelerator.gpus:
            yield warning(place, "accelerator_hour_usd is a price of accelerators, and a replica has none")


# -- where it runs -----------------------------------------------------------------------------------------------------


def _embedded_findings(fleet: FleetFile) -> Iterator[Finding]:
    for name, entry in fleet.models.items():
        if entry.replicas.max > 1:
            yield note(
                f"models.{name}.replicas",
                "without a cluster each process that uses the fleet opens each model once; replicas count with "
                '[cluster] ray = "local" or an address',
            )


def _cluster_findings(fleet: FleetFile, cluster: ClusterView | None) -> Iterator[Finding]:
    yield from _ray_findings()
    demands: dict[str, Demand] = {}
    for name, entry in fleet.models.items():
        if entry.placed_with is not None:
            continue
        try:
            demands[name] = demand_of(fleet, name)
        except InvalidRequest as refused:
            yield error(refused.field, refused.message)
    declared = [
        Node(name=name, cpus=node.cpus, gpus=int(node.accelerator.gpus), kind=node.accelerator.kind, count=node.max)
        for name, node in fleet.cluster.nodes.items()
    ]
    alive = _alive(fleet, cluster)
    if not declared and not alive:
        yield note("cluster", "what its nodes have is not known: it was not reached, and no [cluster.nodes.NAME] says")
        return
    yield from _room_findings(fleet, demands, declared or alive)
    if declared and alive:
        for name, missing in unplaced(list(demands.values()), alive).items():
            yield note(
                f"models.{name}", f"{missing} of {demands[name].count} replicas wait for nodes that are not there yet"
            )


def demand_of(fleet: FleetFile, name: str) -> Demand:
    """What the least replicas of a model take, with those of the models placed with it.

    Raises:
        InvalidRequest: What is placed together does not fit on one accelerator.
    """
    company = [fleet.models[one] for one in (name, *fleet.company_of(name))]
    kinds = [entry.accelerator.kind for entry in company if entry.accelerator.kind is not None]
    return Demand(
        name=name,
        count=fleet.models[name].replicas.min,
        cpus=sum(entry.cpus for entry in company),
        gpus=gpus_of(fleet, name),
        kind=kinds[0] if kinds else None,
    )


def _room_findings(fleet: FleetFile, demands: Mapping[str, Demand], nodes: list[Node]) -> Iterator[Finding]:
    listing = ", ".join(shown(node) for node in nodes)
    short = unplaced(list(demands.values()), nodes)
    for name, missing in short.items():
        demand = demands[name]
        yield error(
            f"models.{name}",
            f"{missing} of its {demand.count} replicas find no room: each takes {taken(demand)}, beside the others on "
            f"{listing}; lower replicas.min or what a replica takes, or add nodes",
        )
    if short:
        return
    most = {
        name: Demand(
            name=name,
            count=fleet.models[name].replicas.max,
            cpus=demand.cpus,
            gpus=demand.gpus,
            kind=demand.kind,
        )
        for name, demand in demands.items()
    }
    for name, missing in unplaced(list(most.values()), nodes).items():
        count = most[name].count
        yield warning(
            f"models.{name}.replicas",
            f"at most {count - missing} of {count} replicas find room when all models are at their max, on {listing}",
        )


def nodes_of(cluster: ClusterView) -> list[Node]:
    """The nodes that a cluster has."""
    return [Node(name=node.name, cpus=node.cpus, gpus=int(node.gpus), kind=node.kind) for node in cluster.nodes]


def _alive(fleet: FleetFile, cluster: ClusterView | None) -> list[Node]:
    if cluster is not None:
        return nodes_of(cluster)
    if fleet.cluster.ray != LOCAL:
        return []
    gpus = fleet.cluster.gpus
    found = len(list(Path("/dev").glob("nvidia[0-9]*"))) if gpus is None else gpus
    kinds = {entry.accelerator.kind for entry in fleet.models.values()} - {None}
    kind = kinds.pop() if len(kinds) == 1 else None  # Ray names it when it starts; taken on trust until then
    return [Node(name="this machine", cpus=fleet.cluster.cpus or os.cpu_count() or 1, gpus=found, kind=kind)]


def _ray_findings() -> Iterator[Finding]:
    try:
        installed = version("ray")
    except PackageNotFoundError:
        yield error("cluster.ray", "Ray is not installed here: pip install 'ttc-orchestrator[ray]'")
        return
    if tuple(int(part) for part in installed.split(".")[:2]) != _RAY:
        wanted = ".".join(map(str, _RAY))
        yield error(
            "cluster.ray", f"Ray {installed} is installed, and this is made for {wanted}: pip install 'ray~={wanted}.0'"
        )
