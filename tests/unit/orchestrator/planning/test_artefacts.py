"""The files of a plan can be read back, and say what the plan says."""

import json
import tomllib
from pathlib import Path

import pytest

from orchestrator.config import VllmSettings
from orchestrator.fleet_file import FleetFile, read_fleet
from orchestrator.planning.artefacts import cluster_yaml, entry_name, fleet_of, fleet_toml, plan_json
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.demand import FanOut
from orchestrator.planning.plan import Drafting, Plan, PlanRequest, make_plan
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.workload import Lengths, Objectives, described

GPUS = Catalogue.default().only(["L4", "L40S", "H100"])


@pytest.fixture(scope="module")
def plan() -> Plan:
    """With several types of GPU, drafts and a scoring model."""
    return make_plan(
        PlanRequest(
            queries=described(Lengths(1500, 1.5), Lengths(300, 1.0), rate=20.0),
            shapes={name: open_shape(text) for name, text in (("small", "llama-3.1-8b"), ("verifier", "llama-3.1-8b"))},
            catalogue=GPUS,
            objectives=Objectives(ttft_s=3.0, tpot_s=0.1),
            fan_out=FanOut(policy="best_of_n", width=4),
            drafting=Drafting(shape=open_shape("llama-3.2-1b")),
        )
    )


def test_the_fleet_file_can_be_read_back(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(fleet_toml(plan))
    assert read_fleet(path).model_dump() == fleet_of(plan).model_dump()


def test_the_fleet_has_the_replicas_and_nodes_of_the_plan(plan: Plan) -> None:
    fleet = fleet_of(plan)
    for role in plan.roles:
        assert sum(role.rate(kind) for kind in role.replicas) == pytest.approx(role.workload.rate)
        most = max(role.replicas, key=role.rate)
        assert fleet.roles[role.role] == entry_name(role, most)
        for kind, count in role.replicas.items():
            entry = fleet.models[entry_name(role, kind)]
            assert (entry.replicas.min, entry.replicas.max) == (count, count)
            assert entry.accelerator.gpus == kind.gpus
            assert VllmSettings.model_validate(entry.engine).tensor_parallel_size == kind.gpus
    assert sum(node.min * (node.hour_usd or 0) for node in fleet.cluster.nodes.values()) == pytest.approx(
        plan.usd_per_hour
    )


def test_what_busy_replicas_are_paid_for_is_what_their_gpus_cost(plan: Plan) -> None:
    fleet = fleet_of(plan)
    for role in plan.roles:
        for kind in role.replicas:
            entry = fleet.models[entry_name(role, kind)]
            prices = entry.prices.per_token(gpus=entry.accelerator.gpus)
            assert prices is not None
            rates, load = role.shares[kind] * role.workload.rates, role.workload
            read, written = (rates * load.input_tokens).sum(), (rates * load.output_tokens).sum()
            earned = 3600 * (read * prices.prompt_usd + written * prices.output_usd) / 1e6
            busy = role.loads[kind] * role.replicas[kind]
            cost = (entry.prices.accelerator_hour_usd or 0) * entry.accelerator.gpus * busy
            assert earned == pytest.approx(cost, rel=0.01)


def test_engines_get_what_they_can_start_with(plan: Plan) -> None:
    for name, entry in fleet_of(plan).models.items():
        settings = VllmSettings.model_validate(entry.engine)
        assert settings.max_model_len is not None
        assert 0 < settings.max_model_len <= 131_072
        assert (settings.runner == "pooling") == name.startswith("verifier")
        if name.startswith("small") and settings.speculation is not None:
            assert settings.speculation.by_batch[-1][1] == settings.max_num_seqs


def test_the_cluster_file_passes_rays_schema(plan: Plan) -> None:
    pytest.importorskip("ray")
    yaml = pytest.importorskip("yaml")
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = yaml.safe_load(cluster_yaml(plan))
    validate_config(prepare_config(cluster))
    types = cluster["available_node_types"]
    assert cluster["max_workers"] == sum(plan.mix.nodes.values())
    gpus = sum(types[name]["resources"].get("GPU", 0) * types[name]["min_workers"] for name in types)
    assert gpus == sum(node.accelerator.gpus * node.min for node in fleet_of(plan).cluster.nodes.values())


def test_nodes_install_what_those_of_the_repositorys_own_cluster_do(plan: Plan) -> None:
    yaml = pytest.importorskip("yaml")
    cluster = yaml.safe_load(cluster_yaml(plan))
    ours = yaml.safe_load((Path(__file__).parents[4] / "ray_cluster.yaml").read_text(encoding="utf-8"))
    for key in ("file_mounts", "head_setup_commands", "worker_setup_commands"):
        assert cluster[key] == ours[key]
    assert cluster["docker"].items() <= ours["docker"].items()


@pytest.mark.parametrize("cloud", ["gcp", "azure"])
def test_other_clouds_name_their_machines_elsewhere(plan: Plan, cloud: str) -> None:
    yaml = pytest.importorskip("yaml")
    catalogue = plan.request.catalogue
    other = catalogue.model_copy(update={"cloud": catalogue.cloud.model_copy(update={"type": cloud})})
    request = PlanRequest(queries=plan.request.queries, shapes=plan.request.shapes, catalogue=other)
    cluster = yaml.safe_load(cluster_yaml(make_plan(request)))
    head = cluster["available_node_types"]["head"]["node_config"]
    assert head == (
        {"machineType": "m5.xlarge"} if cloud == "gcp" else {"azure_arm_parameters": {"vmSize": "m5.xlarge"}}
    )


def test_an_a100_is_known_by_both_of_its_names() -> None:
    yaml = pytest.importorskip("yaml")
    request = PlanRequest(
        queries=described(Lengths(500), Lengths(100), rate=1.0),
        shapes={"small": open_shape("llama-3.1-8b")},
        catalogue=Catalogue.default().only(["A100-80"]),
    )
    cluster = yaml.safe_load(cluster_yaml(make_plan(request)))
    resources = cluster["available_node_types"]["p4de-24xlarge"]["resources"]
    assert resources["accelerator_type:A100"] == resources["accelerator_type:A100-80G"] == 8


def test_the_plan_is_json_and_routes_everything(plan: Plan) -> None:
    data = json.loads(json.dumps(plan_json(plan), allow_nan=False))
    assert data["usd_per_hour"] == plan.usd_per_hour
    assert {single["name"] for single in data["alternatives"]["single_type"]} == set(GPUS.gpus)
    assert len(data["assumptions"]) >= 5
    for role in data["roles"]:
        for route in role["routes"]:
            assert sum(to["share"] for to in route["to"]) == pytest.approx(1)
    names = {to["entry"] for role in data["roles"] for route in role["routes"] for to in route["to"]}
    assert names == set(fleet_of(plan).models)


def test_odd_names_are_quoted(tmp_path: Path) -> None:
    catalogue = Catalogue.default().only(["L4"])
    gpu = catalogue.gpus["L4"]
    odd = gpu.model_copy(update={"offers": (gpu.offers[0].model_copy(update={"name": 'a "b".c\\é'}),)})
    request = PlanRequest(
        queries=described(Lengths(50), Lengths(50), rate=1.0),
        shapes={"small": open_shape("llama-3.2-1b")},
        catalogue=catalogue.model_copy(update={"gpus": {"L4": odd}}),
    )
    plan = make_plan(request)
    assert isinstance(FleetFile.model_validate(tomllib.loads(fleet_toml(plan))), FleetFile)
    yaml = pytest.importorskip("yaml")
    assert len(yaml.safe_load(cluster_yaml(plan))["available_node_types"]) == 2
