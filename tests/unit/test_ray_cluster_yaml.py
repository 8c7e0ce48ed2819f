"""Three files describe one cluster: `ray_cluster.yaml`, the RayCluster for Kubernetes, and the fleet for both."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from orchestrator.api.cli import ttc
from orchestrator.config import Settings
from orchestrator.fleet_file import read_fleet
from orchestrator.fleet_file.opening import engine_settings
from orchestrator.workers.ray.jobs import RAY_VERSION

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deploy" / "ray"
TEXT = (ROOT / "ray_cluster.yaml").read_text(encoding="utf-8")
CLUSTER: dict[str, Any] = yaml.safe_load(TEXT)
WORKERS: dict[str, Any] = {
    name: kind for name, kind in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FLEET = read_fleet(FOLDER / "fleet.toml")
RAY_CLUSTER: dict[str, Any] = yaml.safe_load((FOLDER / "cluster.yaml").read_text(encoding="utf-8"))
GROUPS: dict[str, Any] = {group["groupName"]: group for group in RAY_CLUSTER["spec"]["workerGroupSpecs"]}
FILES = [ROOT / "ray_cluster.yaml", *sorted(FOLDER.iterdir())]
WHEEL = f"ttc_orchestrator-{PROJECT['version']}-py3-none-any.whl"


def kinds_of(resources: dict[str, Any]) -> set[str]:
    return {name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")}


def manifests() -> list[dict[str, Any]]:
    return [
        manifest
        for path in sorted(FOLDER.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def autoscaling() -> dict[str, Any]:
    """What Ray's autoscaler reads in the RayCluster."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    named = {**RAY_CLUSTER, "metadata": RAY_CLUSTER["metadata"] | {"namespace": "ttc"}}
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(named)
    return config


# ray_cluster.yaml


def test_rays_own_schema_takes_the_file() -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(CLUSTER))
    broken = {**CLUSTER, "min_worker": 3}
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(broken))


def test_there_is_a_head_and_nodes_for_small_and_large_models_that_come_with_load() -> None:
    head = CLUSTER["available_node_types"][CLUSTER["head_node_type"]]
    assert head["max_workers"] == 0
    assert head["resources"]["GPU"] == 0
    assert set(WORKERS) == {"small", "large"}
    for kind in WORKERS.values():
        assert kind["min_workers"] == 0 < kind["max_workers"]
        assert kind["resources"]["GPU"] > 0
    assert sum(kind["max_workers"] for kind in WORKERS.values()) == CLUSTER["max_workers"]


def test_labels_say_which_nodes_are_which() -> None:
    assert {name: kind["labels"]["tier"] for name, kind in CLUSTER["available_node_types"].items()} == {
        "head": "head",
        "small": "small",
        "large": "large",
    }


def test_an_accelerators_type_is_there_once_as_ray_itself_counts_it() -> None:
    for name, kind in WORKERS.items():
        counts = [count for key, count in kind["resources"].items() if key.startswith("accelerator_type:")]
        assert counts == [1], name


def test_every_node_installs_one_version_of_this_distribution() -> None:
    commands = CLUSTER["head_setup_commands"] + CLUSTER["worker_setup_commands"]
    assert len(commands) == 2
    for command in commands:
        assert re.findall(r"ttc_orchestrator-[^\[']*", command) == [WHEEL]
        (place,) = re.findall(r"'(\S+)/ttc_orchestrator", command)
        assert CLUSTER["file_mounts"][place] == "dist"
    assert not CLUSTER.get("setup_commands")
    assert all("worker_setup_commands" not in kind for kind in CLUSTER["available_node_types"].values())
    (extras,) = re.findall(r"\.whl\[(.*?)\]", CLUSTER["worker_setup_commands"][0])
    assert set(extras.split(",")) == {"ray", "vllm"} <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_versions_of_ray_are_the_one_that_is_pinned(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    versions = re.findall(r"rayproject/ray:(\d+\.\d+)\.\d+", text) + re.findall(r"rayVersion: (\d+\.\d+)\.\d+", text)
    assert set(versions) <= {RAY_VERSION}
    if path.name in {"ray_cluster.yaml", "Dockerfile", "cluster.yaml"}:
        assert versions


def test_images_have_one_python_that_is_supported() -> None:
    found = {python for path in FILES for python in re.findall(r"ray:[\d.]+-py(\d+)", path.read_text(encoding="utf-8"))}
    (python,) = found
    assert f"Programming Language :: Python :: {python[0]}.{python[1:]}" in PROJECT["classifiers"]


def test_vllm_is_pinned_to_one_version_everywhere() -> None:
    found = {version for path in FILES for version in re.findall(r"vllm==([\d.]+)", path.read_text(encoding="utf-8"))}
    (version,) = found
    (wanted,) = PROJECT["optional-dependencies"]["vllm"]
    lowest = wanted.removeprefix("vllm>=").split(",")[0]
    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_the_dashboard_which_runs_programs_listens_on_the_head_only() -> None:
    (start,) = [command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert any("$RAY_HEAD_IP" in command for command in CLUSTER["worker_start_ray_commands"])


# The fleet that runs on it


@pytest.mark.parametrize("name", ["small", "large"])
def test_nodes_of_the_fleet_file_are_those_of_the_cluster(name: str) -> None:
    node, kind = FLEET.cluster.nodes[name], WORKERS[name]
    assert (node.cpus, node.accelerator.gpus) == (kind["resources"]["CPU"], kind["resources"]["GPU"])
    assert {node.accelerator.kind} == kinds_of(kind["resources"])
    assert (node.min, node.max) == (kind["min_workers"], kind["max_workers"])
    assert set(FLEET.cluster.nodes) == set(WORKERS)


def test_all_replicas_at_their_most_fit_on_all_nodes() -> None:
    for node_name, node in FLEET.cluster.nodes.items():
        models = [entry for entry in FLEET.models.values() if entry.accelerator.kind == node.accelerator.kind]
        assert models, f"nothing runs on {node_name}"
        assert sum(entry.replicas.max * entry.accelerator.gpus for entry in models) <= node.max * node.accelerator.gpus
        for entry in models:
            assert entry.accelerator.gpus <= node.accelerator.gpus
            replicas_of_a_node = node.accelerator.gpus // entry.accelerator.gpus
            assert replicas_of_a_node * entry.cpus <= min(node.cpus, cpus_of(GROUPS[node_name]))


def test_models_of_the_fleet_take_their_engine_arguments() -> None:
    for name, entry in FLEET.models.items():
        settings = engine_settings(entry, Settings(), name=name)
        assert (settings.vllm.tensor_parallel_size or 1) == entry.accelerator.gpus


def cpus_of(group: dict[str, Any]) -> float:
    (container,) = group["template"]["spec"]["containers"]
    return float(container["resources"]["limits"]["cpu"])


# Kubernetes


def test_rays_autoscaler_sees_the_same_nodes_in_the_ray_cluster() -> None:
    types = autoscaling()["available_node_types"]
    assert set(types) == {"headgroup", *FLEET.cluster.nodes}
    for name, node in FLEET.cluster.nodes.items():
        seen = types[name]
        assert seen["resources"]["GPU"] == node.accelerator.gpus
        assert kinds_of(seen["resources"]) == {node.accelerator.kind}
        assert (seen["min_workers"], seen["max_workers"]) == (node.min, node.max)
        assert 0 < seen["resources"]["CPU"] <= node.cpus
        assert seen["resources"]["memory"] <= (node.memory_gib or 0) * (1 << 30)
    assert "GPU" not in types["headgroup"]["resources"]


def test_the_ray_cluster_has_the_fields_that_the_operator_knows() -> None:
    assert (RAY_CLUSTER["apiVersion"], RAY_CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    spec = RAY_CLUSTER["spec"]
    assert set(spec) == {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert spec["enableInTreeAutoscaling"] is True
    assert set(spec["autoscalerOptions"]) <= {"idleTimeoutSeconds", "resources", "securityContext", "upscalingMode"}
    assert set(spec["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in GROUPS.values():
        assert set(group) == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "the operator wants text"


@pytest.mark.parametrize("name", ["head", "small", "large"])
def test_pods_have_few_rights_and_shared_memory(name: str) -> None:
    group = RAY_CLUSTER["spec"]["headGroupSpec"] if name == "head" else GROUPS[name]
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["image"] == "ttc-ray"
    assert container["resources"]["requests"] == container["resources"]["limits"], "Ray counts what it is promised"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    if name != "head":
        assert pod["automountServiceAccountToken"] is False


def page_commands() -> list[str]:
    """Command lines of ttc on the page about submitting."""
    page = (ROOT / "docs" / "howto" / "submit.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) for line in block.splitlines()]
    return [found[1] for line in lines if (found := re.search(r"(?:^|-- )ttc (.*)$", line))]


def options_of(words: list[str]) -> dict[str, Any]:
    """What the real command reads; nothing is run."""
    command: click.Command = ttc
    context: click.Context | None = None
    while isinstance(command, click.Group):
        name, *words = words
        context = click.Context(command, parent=context, info_name=name)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name!r}"
        command = found
    return command.make_context(command.name, words, parent=context).params


@pytest.mark.parametrize("line", page_commands())
def test_commands_on_the_page_exist_with_their_options(line: str) -> None:
    options = options_of(shlex.split(line.replace("...", "")))
    fleet = options.get("fleet")
    assert fleet in {None, "fleet.toml", "fleet/fleet.toml"} or (ROOT / str(fleet)).exists()


def test_the_page_shows_how_to_submit_follow_and_stop() -> None:
    assert {"follow", "stop", "file"} <= {
        name
        for line in page_commands()
        for name, value in options_of(shlex.split(line.replace("...", ""))).items()
        if value
    }


def test_jobs_use_commands_paths_and_a_cluster_that_are_there() -> None:
    jobs = {manifest["metadata"].get("name", "batch"): manifest for manifest in manifests() if is_job(manifest)}
    assert set(jobs) == {"ttc-fleet-up", "batch"}
    (container,) = RAY_CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for job in jobs.values():
        assert set(job["spec"]) == {"clusterSelector", "submissionMode", "entrypoint"}
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": RAY_CLUSTER["metadata"]["name"]}
        paths = re.findall(r"(/\w+)/[\w.]+", job["spec"]["entrypoint"])
        assert paths
        assert set(paths) <= mounted
    words = shlex.split(jobs["batch"]["spec"]["entrypoint"])
    assert words[:2] == ["ttc", "solve"]
    options = options_of(words[1:])
    assert (options["out"], options["file"]) == ("/shared/results.jsonl", "/shared/problems.jsonl")
    up = shlex.split(jobs["ttc-fleet-up"]["spec"]["entrypoint"])
    assert up == ["ttc", "fleet", "up", "/fleet/fleet.toml"]
    assert options_of([*up[1:3], str(FOLDER / "fleet.toml")])


def is_job(manifest: dict[str, Any]) -> bool:
    return manifest["kind"] == "RayJob"


def test_only_the_clusters_own_pods_its_clients_and_the_operator_reach_it() -> None:
    (policy,) = [manifest for manifest in manifests() if manifest["kind"] == "NetworkPolicy"]
    name = RAY_CLUSTER["metadata"]["name"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": name}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    free, *others = policy["spec"]["ingress"]
    assert free["from"] == [{"podSelector": {"matchLabels": {"ray.io/cluster": name}}}]
    assert all(rule["ports"] and rule["from"] for rule in others)


def test_the_image_is_made_of_the_same_wheel() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"ttc_orchestrator-[^\[' ]*?\.whl", text)) == {WHEEL}
    tags = {image["name"]: image["newTag"] for image in kustomization()["images"]}
    assert tags == {"ttc-ray": PROJECT["version"]}
    assert f"ttc-ray:{PROJECT['version']}" in text


def kustomization() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
    return found


def test_kustomize_puts_the_fleet_file_where_the_head_mounts_it() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    built = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built)}
    config = made["ConfigMap", "ttc-fleet"]
    assert config["data"]["fleet.toml"] == (FOLDER / "fleet.toml").read_text(encoding="utf-8")
    head = made["RayCluster", "ttc-ray"]["spec"]["headGroupSpec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert volumes["fleet"]["configMap"]["name"] == "ttc-fleet"
    assert ("PersistentVolumeClaim", volumes["shared"]["persistentVolumeClaim"]["claimName"]) in made
    assert all(one["metadata"]["namespace"] == "ttc" for one in made.values())
    groups = [made["RayCluster", "ttc-ray"]["spec"]["headGroupSpec"], *GROUPS.values()]
    assert built.count(f"image: ttc-ray:{PROJECT['version']}") == len(groups)
