"""The files that a plan becomes: `fleet.toml`, `ray_cluster.yaml`, and the plan itself as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from orchestrator.fleet_file import Accelerator, ClusterEntry, FleetFile, ModelEntry, NodeEntry, Prices, Replicas
from orchestrator.planning.alternatives import Alternative
from orchestrator.planning.catalogue import Catalogue, GpuType, Offer
from orchestrator.planning.mix import Kind
from orchestrator.planning.plan import Plan, RolePlan

_MACHINES = {"aws": ("InstanceType",), "gcp": ("machineType",), "azure": ("azure_arm_parameters", "vmSize")}
"""Where the clouds' node providers of Ray want the name of a machine."""

_RAY, _VLLM = "2.60.0", "0.32.0"
"""Versions for the nodes, as in the repository's ``ray_cluster.yaml``; the tests hold the two files together."""
_IMAGE = f"rayproject/ray:{_RAY}-py312"
_DIST = "/home/ray/dist"
_NO_TIME_S = 1e-9
_QUEUED = 2
"""Requests that a replica takes, for each that it can decode at once: the next ones wait in the engine."""


def fleet_of(plan: Plan) -> FleetFile:
    """The fleet; a role's first model is the one that gets most of its requests."""
    models: dict[str, ModelEntry] = {}
    for role in plan.roles:
        kinds = sorted(role.replicas, key=role.rate, reverse=True)
        for kind in kinds:
            models[entry_name(role, kind)] = _entry(plan, role, kind, is_first=kind is kinds[0])
    nodes = {offer.name: _node(gpu, offer, count) for gpu, offer, count in _rented(plan)}
    return FleetFile(models=models, cluster=ClusterEntry(ray="auto", nodes=nodes))


def entry_name(role: RolePlan, kind: Kind) -> str:
    """Of a role's model on some GPUs: the role's alone where all run on the same."""
    if len(role.replicas) == 1:
        return role.role
    size = "" if kind.gpus == 1 else f"{kind.gpus}x"
    return f"{role.role}-{size}{kind.gpu}".lower()


def _rented(plan: Plan) -> list[tuple[GpuType, Offer, int]]:
    gpus = plan.request.catalogue.gpus
    rented = []
    for (name, offer_name), count in plan.mix.nodes.items():
        (offer,) = [offer for offer in gpus[name].offers if offer.name == offer_name]
        rented.append((gpus[name], offer, count))
    return rented


def _entry(plan: Plan, role: RolePlan, kind: Kind, *, is_first: bool) -> ModelEntry:
    gpu = plan.request.catalogue.gpus[kind.gpu]
    sequences = role.concurrency(kind)
    prompt_rate, output_rate = _token_rates(role, kind)
    return ModelEntry(
        model=role.shape.source,
        roles=(role.role,) if is_first else (),
        replicas=Replicas(min=role.replicas[kind], max=role.replicas[kind]),
        engine=_engine(plan, role, kind),
        accelerator=Accelerator(kind=gpu.kind, gpus=kind.gpus, memory_gib=gpu.memory_gib),
        cpus=float(kind.gpus),
        max_ongoing=_QUEUED * sequences,
        prices=Prices(
            accelerator_hour_usd=round(_gpu_hour(plan, kind.gpu), 6),
            prompt_tokens_per_s=prompt_rate,
            output_tokens_per_s=output_rate,
        ),
    )


def _token_rates(role: RolePlan, kind: Kind) -> tuple[float | None, float | None]:
    """Tokens per second of the time that a replica spends on prompts, and of the rest.

    Priced by these, what a busy replica reads and writes in an hour costs together what its GPUs cost. The one token
    that a scoring model writes is priced as one it reads.
    """
    rates, found, load = role.shares[kind] * role.workload.rates, role.capacities[kind], role.workload
    used = rates > 0
    seconds = rates[used] / found.rates[used]
    prompt_s = float((seconds * found.prompt_share[used]).sum())
    output_s = float((seconds * (1.0 - found.prompt_share[used])).sum())
    read, written = float((rates * load.input_tokens).sum()), float((rates * load.output_tokens).sum())
    per_prompt = round(read / prompt_s, 1) if prompt_s > _NO_TIME_S else None
    if output_s > _NO_TIME_S:
        return per_prompt, round(written / output_s, 1)
    return per_prompt, per_prompt


def _engine(plan: Plan, role: RolePlan, kind: Kind) -> dict[str, Any]:  # Any: checked by the engine's settings
    """Arguments of vLLM; empty for other engines."""
    if not role.shape.source.startswith("vllm:"):
        return {}
    assumed = plan.request.assumed
    arguments: dict[str, Any] = {
        "gpu_memory_utilization": assumed.memory,
        "max_model_len": min(role.shape.context, math.floor(role.rooms[kind])),
        "max_num_seqs": role.concurrency(kind),
        "tensor_parallel_size": kind.gpus,
    }
    if role.role == "verifier" and role.workload.output_tokens.max() == 1:
        arguments["runner"] = "pooling"
    drafting, drafts = plan.request.drafting, role.drafts.get(kind, ())
    if drafting is not None and any(draft.tokens for draft in drafts):
        speculation: dict[str, Any] = {
            "method": "ngram" if drafting.shape is None else "draft_model",
            "num_tokens": max(draft.tokens for draft in drafts),
            "by_batch": [list(draft) for draft in drafts],
        }
        if drafting.shape is not None:
            speculation["model"] = drafting.shape.source.removeprefix("vllm:")
        arguments["speculation"] = speculation
    return arguments


def _gpu_hour(plan: Plan, gpu: str) -> float:
    """Dollars per hour of one GPU of a type, as rented."""
    rented = [(offer, count) for type_, offer, count in _rented(plan) if type_.name == gpu]
    paid = sum(offer.usd_per_hour * count for offer, count in rented)
    return paid / sum(offer.gpus * count for offer, count in rented)


def _node(gpu: GpuType, offer: Offer, count: int) -> NodeEntry:
    return NodeEntry(
        cpus=offer.cpus,
        accelerator=Accelerator(kind=gpu.kind, gpus=offer.gpus, memory_gib=gpu.memory_gib),
        min=count,
        max=count,
        hour_usd=offer.usd_per_hour,
    )


def fleet_toml(plan: Plan) -> str:
    """`fleet.toml`, with where it is from."""
    data = fleet_of(plan).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    head = [
        "# Made by `ttc plan`; the numbers it rests on are in plan.json. Check prices and throughput before you buy.",
        f"# {plan.usd_per_hour:,.4f} dollars per hour for GPU nodes ({plan.request.catalogue.source}, "
        f"{plan.request.catalogue.date}).",
    ]
    spread = [role for role in plan.roles if len(role.replicas) > 1]
    for role in spread:
        others = ", ".join(entry_name(role, kind) for kind in role.replicas)
        head.append(f"# {role.role} is spread over {others}: send each request where plan.json's routes say.")
    return "\n".join([*head, "", *_toml_table(data, ())]) + "\n"


def _toml_table(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Tables two levels deep get a heading of their own; what is deeper is written inline."""
    plain = {key: value for key, value in data.items() if not (isinstance(value, dict) and len(path) < 2)}
    tables = {key: value for key, value in data.items() if key not in plain}
    lines = [] if not path or not plain else ["[" + ".".join(_toml_key(part) for part in path) + "]"]
    lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in plain.items()]
    lines += [""] if plain else []
    for key, value in tables.items():
        lines += _toml_table(value, (*path, key))
    return lines


def _toml_key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key)


def _toml_value(value: Any) -> str:  # Any: JSON values
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(each) for each in value) + "]"
    return json.dumps(value)


def cluster_yaml(plan: Plan, *, name: str = "ttc") -> str:
    """`ray_cluster.yaml`: a head without models, and the rented nodes."""
    cloud = plan.request.catalogue.cloud
    types: dict[str, Any] = {
        "head": {
            "node_config": _machine(cloud.type, cloud.head),
            "resources": {"CPU": cloud.head_cpus, "GPU": 0},
            "min_workers": 0,
            "max_workers": 0,
        }
    }
    for gpu, offer, count in _rented(plan):
        kinds = {gpu.kind, gpu.kind.split("-")[0]} if gpu.kind.startswith("A100") else {gpu.kind}
        types[offer.name.replace(".", "-")] = {
            "node_config": _machine(cloud.type, offer.name),
            "resources": {
                "CPU": offer.cpus,
                "GPU": offer.gpus,
                **{f"accelerator_type:{kind}": offer.gpus for kind in sorted(kinds)},
            },
            "min_workers": count,
            "max_workers": count,
            "labels": {"gpu": gpu.name},
        }
    provider = {"type": cloud.type, **({"region": cloud.region} if cloud.region else {})}
    cluster = {
        "cluster_name": name,
        "max_workers": sum(plan.mix.nodes.values()),
        "idle_timeout_minutes": 10,
        "provider": provider,
        "auth": {"ssh_user": "ubuntu"},
        **_installation(),
        "head_node_type": "head",
        "available_node_types": types,
    }
    head = [
        "# Made by `ttc plan`: `ray up ray_cluster.yaml` starts it; `ttc fleet up fleet.toml` starts the models.",
        "# Nodes install a wheel, made in a clone of ttc-orchestrator by pip wheel --no-deps --wheel-dir dist .",
    ]
    return "\n".join([*head, *_yaml(cluster, 0)]) + "\n"


def _installation() -> dict[str, Any]:  # Any: nested texts
    """Ray and Python are those of the image; the rest is installed in the versions that the project was tested with."""
    wheel = f"{_DIST}/ttc_orchestrator-{version('ttc-orchestrator')}-py3-none-any.whl"
    return {
        "docker": {
            "container_name": "ray",
            "head_image": _IMAGE,
            "worker_image": f"{_IMAGE}-gpu",
            "pull_before_run": True,
        },
        "file_mounts": {_DIST: "dist"},
        "head_setup_commands": [f"pip install '{wheel}[ray]'"],
        "worker_setup_commands": [f"pip install '{wheel}[ray,vllm]' vllm=={_VLLM}"],
    }


def _machine(cloud: str, name: str) -> dict[str, Any]:  # Any: nested texts
    config: Any = name
    for key in reversed(_MACHINES.get(cloud, _MACHINES["aws"])):
        config = {key: config}
    return dict(config)


def _yaml(data: Mapping[str, Any], depth: int) -> list[str]:
    """Nested mappings as blocks; everything else as JSON, which YAML reads as well."""
    lines = []
    for key, value in data.items():
        label = "  " * depth + (key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key))
        if isinstance(value, dict) and value:
            lines += [f"{label}:", *_yaml(value, depth + 1)]
        else:
            lines.append(f"{label}: {json.dumps(value)}")
    return lines


def plan_json(plan: Plan) -> dict[str, Any]:  # Any: JSON values
    """Everything that was decided, and on what grounds."""
    request = plan.request
    best = plan.best_single
    return {
        "usd_per_hour": plan.usd_per_hour,
        "usd_per_million_queries": plan.usd_per_hour / 3600 / request.queries.rate * 1e6,
        "is_proven_cheapest": plan.mix.gap == 0,
        "gap": plan.mix.gap,
        "solve_s": plan.mix.seconds,
        "nodes": [
            {"gpu": gpu.name, "offer": offer.name, "count": count, "usd_per_hour": offer.usd_per_hour * count}
            for gpu, offer, count in _rented(plan)
        ],
        "roles": [_role_json(role) for role in plan.roles],
        "alternatives": {
            "single_type": [_alternative_json(plan, single) for single in plan.singles],
            "not_routed_by_size": _alternative_json(plan, plan.unrouted),
            "best_single_type": None if best is None else best.name,
            "saving_on_best_single_type": plan.saving(best),
        },
        "load": {
            "name": request.queries.name,
            "queries_per_s": request.queries.rate,
            "policy": request.fan_out.policy,
            "width": request.fan_out.width,
            "steps": request.fan_out.steps,
            "headroom": request.headroom,
        },
        "objectives": {
            "ttft_s": request.objectives.ttft_s,
            "tpot_s": request.objectives.tpot_s,
            "quantile": request.objectives.quantile,
        },
        "catalogue": _catalogue_json(request.catalogue),
        "assumptions": list(plan.assumptions),
    }


def _catalogue_json(catalogue: Catalogue) -> dict[str, Any]:  # Any: JSON values
    return {"source": catalogue.source, "date": catalogue.date, "gpus": sorted(catalogue.gpus)}


def _alternative_json(plan: Plan, other: Alternative) -> dict[str, Any]:  # Any: JSON values
    return {
        "name": other.name,
        "usd_per_hour": other.usd_per_hour,
        "saving": plan.saving(other),
        "reason": other.reason or None,
    }


def _role_json(role: RolePlan) -> dict[str, Any]:  # Any: JSON values
    return {
        "role": role.role,
        "model": role.shape.name,
        "source": role.shape.source,
        "requests_per_s": role.workload.rate,
        "replicas": [
            {
                "entry": entry_name(role, kind),
                "gpu": kind.gpu,
                "gpus": kind.gpus,
                "count": count,
                "requests_per_s": role.rate(kind),
                "busy": role.loads[kind],
                "max_sequences": role.concurrency(kind),
                "drafts": [list(draft) for draft in role.drafts.get(kind, ())],
            }
            for kind, count in role.replicas.items()
        ],
        "routes": [_route_json(role, bucket) for bucket in range(len(role.workload))],
    }


def _route_json(role: RolePlan, bucket: int) -> dict[str, Any]:  # Any: JSON values
    """Which replicas serve a bucket, and what limits them there."""
    load = role.workload
    return {
        "bucket": load.labels[bucket],
        "requests_per_s": float(load.rates[bucket]),
        "input_tokens": float(load.input_tokens[bucket]),
        "output_tokens": float(load.output_tokens[bucket]),
        "to": [
            {
                "entry": entry_name(role, kind),
                "share": float(role.shares[kind][bucket]),
                "most_per_s": float(role.capacities[kind].rates[bucket]),
                "limit": str(role.capacities[kind].limits[bucket]),
                "is_measured": bool(role.capacities[kind].is_measured[bucket]),
            }
            for kind in role.replicas
            if role.shares[kind][bucket] > 0
        ],
    }
