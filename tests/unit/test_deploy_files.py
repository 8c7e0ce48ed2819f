"""The files in docs/deploy say what the service understands, and keep what docs/howto/deploy.md says of them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from orchestrator.api.cli import ttc
from orchestrator.config import Settings

pytest.importorskip("fastapi", reason="the extra 'service' is not installed")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
PAGE = (ROOT / "docs" / "howto" / "deploy.md").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "ttc.service").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
NOT_OURS_TO_DRAIN_S = 10
"""Seconds a process has beyond --grace to answer what is under way, and to close models and store."""
OTHER_VARIABLES = {"TTC_CONFIG", "TTC_DATA_DIR", "TTC_IMAGE"}


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


def pods() -> dict[str, dict[str, Any]]:
    """Pod specifications by the name of what makes the pods."""
    made = of_kind("Deployment") + of_kind("StatefulSet")
    return {manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"] for manifest in made}


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of a command line of ttc, as the real command reads them; nothing is run."""
    command: click.Command = ttc
    context: click.Context | None = None
    while isinstance(command, click.Group):
        name, *words = words
        context = click.Context(command, parent=context, info_name=name)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name!r}"
        command = found
    return command.make_context(command.name, words, parent=context).params


def page_commands() -> Iterator[str]:
    """Command lines of ttc on the page: after the command's name, the image's, or that of a service of compose."""
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            found = re.search(r"(?:^|[\s/])(?:ttc|run --rm controller) ((?:[a-z]+ )*[a-z]+.*)$", line)
            if found and found[1].split()[0] in ttc.list_commands(click.Context(ttc)):
                yield found[1]


def grace_of(arguments: list[str]) -> float:
    grace: float = parsed(arguments)["grace_s"]
    return grace


# Commands, settings and paths that exist


def test_the_page_shows_commands() -> None:
    assert {command.split()[0] for command in page_commands()} >= {"serve", "keys", "models"}


@pytest.mark.parametrize("command", sorted(set(page_commands())))
def test_commands_on_the_page_exist_with_their_options(command: str) -> None:
    assert parsed(shlex.split(command)) is not None


@pytest.mark.parametrize("service", ["api", "controller"])
def test_commands_of_compose_exist_with_their_options(service: str) -> None:
    options = parsed(COMPOSE["services"][service]["command"])
    assert options["concurrency"] == (0 if service == "api" else 8)


def test_the_images_command_exists_with_its_options() -> None:
    (words,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    assert parsed(yaml.safe_load(words)) | {"host": "0.0.0.0", "port": 8000} == parsed(yaml.safe_load(words))


def test_the_units_command_exists_with_its_options() -> None:
    (line,) = re.findall(r"^ExecStart=/opt/ttc/bin/ttc (.*)$", UNIT, flags=re.MULTILINE)
    assert parsed(shlex.split(line))["host"] == "127.0.0.1", "without keys it must stay on this machine"


@pytest.mark.parametrize("name", ["ttc-api", "ttc-controller"])
def test_commands_of_pods_exist_with_their_options(name: str) -> None:
    (container,) = pods()[name]["containers"]
    assert parsed(container["args"])["concurrency"] == (0 if name == "ttc-api" else 8)


def has_setting(variable: str) -> bool:
    first, *rest = variable.removeprefix("TTC_").lower().split("__")
    field = Settings.model_fields.get(first)
    if field is None or not rest:
        return field is not None
    return rest[0] in getattr(field.annotation, "model_fields", {})


@pytest.mark.parametrize(
    "path", [*sorted(DEPLOY.rglob("*")), ROOT / "docs" / "howto" / "deploy.md"], ids=lambda path: path.name
)
def test_variables_are_settings(path: Path) -> None:
    if path.is_file():
        names = set(re.findall(r"\bTTC_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))
        assert {name for name in names - OTHER_VARIABLES if not has_setting(name)} == set()


def test_a_misspelt_setting_is_seen() -> None:
    assert not has_setting("TTC_SERVICE__GRACE")
    assert not has_setting("TTC_STORAGE")


def test_probes_ask_paths_that_the_service_has() -> None:
    from orchestrator.api.service.health import router

    paths = {route.path for route in router.routes}  # type: ignore[attr-defined]  # all of ours have one
    (container,) = pods()["ttc-api"]["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert set(asked.values()) <= paths
    assert asked["readiness"] == "/readyz"
    assert asked["liveness"] == "/healthz", "one that only waits for its store must not be killed"
    assert re.findall(r"http://127.0.0.1:8000(/\w+)", DOCKERFILE) == ["/healthz"]


# The image


def test_the_image_is_made_in_two_stages_and_runs_as_nobody_in_particular() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert len(stages) == 2
    assert re.findall(r"^USER (.*)$", stages[1], flags=re.MULTILINE) == ["10001:10001"]
    assert "build-essential" not in stages[1]
    assert "HEALTHCHECK" in stages[1]
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|SECRET|PASSWORD)", DOCKERFILE, flags=re.MULTILINE)


def test_every_folder_of_the_package_is_in_the_image_and_nothing_that_is_not_there() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = set(project["tool"]["setuptools"]["package-dir"].values())
    sources = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, flags=re.MULTILINE)
    copied = {name for line in sources for name in line.split()}
    assert folders <= copied
    assert all((ROOT / name).exists() for name in copied)
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert copied == {line[1:] for line in sent if line.startswith("!")}


# Compose


def test_compose_keeps_passwords_out_of_the_file_and_redis_inside() -> None:
    services = COMPOSE["services"]
    assert "ports" not in services["redis"]
    assert services["redis"]["networks"] == ["inside"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert services["redis"]["environment"]["REDIS_PASSWORD"].startswith("${REDIS_PASSWORD:?")
    assert "${REDIS_PASSWORD:?" in services["api"]["environment"]["TTC_STORE"]
    assert services["redis"]["user"] == "999:999", "with a command of our own the image would stay root"
    assert "--requirepass" not in str(services["redis"]["command"])
    assert all(port.startswith("127.0.0.1:") for port in services["api"]["ports"])


@pytest.mark.parametrize("service", ["api", "controller"])
def test_services_of_compose_have_time_to_leave_and_few_rights(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert float(settings["stop_grace_period"].removesuffix("s")) >= grace_of(settings["command"]) + NOT_OURS_TO_DRAIN_S
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["depends_on"]["redis"]["condition"] == "service_healthy"
    empty = [name for name, value in settings["environment"].items() if value == "" or str(value).endswith(":-}")]
    assert not empty, "an empty value is a setting, too"


def test_redis_keeps_what_it_was_told() -> None:
    script = COMPOSE["services"]["redis"]["command"][2].replace("$$", "$")
    ((container,),) = [pod["containers"] for name, pod in pods().items() if name == "redis"]
    assert container["command"][2] == script, "one Redis, two places"
    for option in ("--appendonly yes", "--maxmemory-policy noeviction"):
        assert option in script


@pytest.mark.server
def test_redis_takes_its_password_from_standard_input(tmp_path: Path) -> None:
    import os
    import socket
    import time

    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = COMPOSE["services"]["redis"]["command"][2].replace("$$", "$")
    script = script.replace("--dir /data", f"--dir {tmp_path} --port {port}")
    environment = {**os.environ, "REDIS_PASSWORD": "sesame"}
    with subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            answer, deadline = b"", time.monotonic() + 10
            while not answer and time.monotonic() < deadline:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                        connection.sendall(b"PING\r\nAUTH sesame\r\n")
                        while answer.count(b"\r\n") < 2:
                            answer += connection.recv(100)
                except ConnectionRefusedError:
                    time.sleep(0.05)
            assert answer == b"-NOAUTH Authentication required.\r\n+OK\r\n"
            shown = subprocess.run(
                ["ps", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=True
            )
            assert "redis-server" in shown.stdout
            assert "sesame" not in shown.stdout
        finally:
            server.terminate()


def test_docker_compose_reads_the_file(tmp_path: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose")
    settings = tmp_path / "env"
    settings.write_text("REDIS_PASSWORD=sesame\nTTC_MODEL=scripted:\n", encoding="utf-8")
    command = [
        "docker",
        "compose",
        "--env-file",
        str(settings),
        "-f",
        str(DEPLOY / "compose.yaml"),
        "config",
        "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# systemd


def test_the_unit_gives_time_to_leave_and_signals_the_service_alone() -> None:
    options = dict(re.findall(r"^(\w+)=(.*)$", UNIT, flags=re.MULTILINE))
    (line,) = re.findall(r"^ExecStart=/opt/ttc/bin/ttc (.*)$", UNIT, flags=re.MULTILINE)
    assert float(options["TimeoutStopSec"]) >= grace_of(shlex.split(line)) + NOT_OURS_TO_DRAIN_S
    assert options["KillMode"] == "mixed"
    assert options["OOMPolicy"] == "continue"
    assert (options["NoNewPrivileges"], options["ProtectSystem"], options["DynamicUser"]) == ("yes", "strict", "yes")


def test_systemd_reads_the_unit_and_finds_it_well_protected(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "ttc.service"
    unit.write_text(UNIT.replace("/opt/ttc/bin/ttc", "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd-analyze cannot run here")
    assert done.returncode == 0, done.stderr
    assert "ttc.service" not in done.stderr, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]  # of 100; 96 without any
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


# Kubernetes


def test_manifests_are_complete_and_listed() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8"))
    listed = set(kustomization["resources"])
    assert listed == {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in MANIFESTS]
    assert len(set(names)) == len(names)
    assert {kind for kind, _ in names} >= {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    versions = {manifest["kind"]: manifest["apiVersion"] for manifest in MANIFESTS}
    assert versions == {
        "ConfigMap": "v1",
        "Deployment": "apps/v1",
        "HorizontalPodAutoscaler": "autoscaling/v2",
        "Namespace": "v1",
        "PodDisruptionBudget": "policy/v1",
        "Service": "v1",
        "StatefulSet": "apps/v1",
    }


def test_selectors_find_the_pods_they_are_for() -> None:
    made = of_kind("Deployment") + of_kind("StatefulSet")
    labels = {manifest["metadata"]["name"]: manifest["spec"]["template"]["metadata"]["labels"] for manifest in made}
    for manifest in made:
        assert manifest["spec"]["selector"]["matchLabels"] == labels[manifest["metadata"]["name"]]
    for budget in of_kind("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"] == labels[budget["metadata"]["name"]]
    for service, name in (("ttc", "ttc-api"), ("redis", "redis")):
        (manifest,) = [one for one in of_kind("Service") if one["metadata"]["name"] == service]
        assert manifest["spec"]["selector"] == labels[name]
        (container,) = pods()[name]["containers"]
        assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= {
            port["name"] for port in container["ports"]
        }
    for scaler in of_kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in {(one["kind"], one["metadata"]["name"]) for one in made}
        assert scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]


@pytest.mark.parametrize("name", sorted(pods()))
def test_pods_have_the_rights_that_the_restricted_standard_leaves(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        claims = {"data"} if name == "redis" else {volume["name"] for volume in pod["volumes"]}
        assert mounted == claims


@pytest.mark.parametrize("name", ["ttc-api", "ttc-controller"])
def test_pods_have_time_to_leave(name: str) -> None:
    pod = pods()[name]
    (container,) = pod["containers"]
    pause_s = float(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])[1])
    assert pod["terminationGracePeriodSeconds"] >= pause_s + grace_of(container["args"]) + NOT_OURS_TO_DRAIN_S


def test_pods_refer_to_the_secret_and_settings_that_the_page_makes() -> None:
    given = set(re.findall(r"--from-literal=([\w-]+)=", PAGE))
    assert "create secret generic ttc" in PAGE
    for pod in pods().values():
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in {one["metadata"]["name"] for one in of_kind("ConfigMap")}
            for variable in container["env"]:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert (reference["name"], reference["key"] in given) == ("ttc", True)


def test_kubectl_reads_the_manifests() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(MANIFESTS)
    assert {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"} == {"ttc"}
    assert "image: ttc:0.1.0" in done.stdout
