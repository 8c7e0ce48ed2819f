"""`ttc fleet` where there is no cluster: what it says, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.api.cli import main
from orchestrator.api.commands.fleet import _confirm, _wish, fleet
from orchestrator.api.fleets.checking import check
from orchestrator.api.fleets.findings import Level
from orchestrator.api.terminal.options import ModelChoice
from orchestrator.config import read_settings
from orchestrator.errors import InvalidRequest, JobConflict
from orchestrator.fleet_file import Replicas, read_fleet
from orchestrator.local_cluster import LocalCluster, forget_local, local_address, read_local, write_local
from orchestrator.workers.ray.fleet_status import ModelStatus

EXAMPLES = Path(__file__).parents[4] / "docs" / "deploy"
LAPTOP = '[models.m]\nmodel = "lab:small"\n'
LOCAL = LAPTOP + 'cpus = 0.1\n[cluster]\nray = "local"\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "fleet.toml"


def test_a_fleet_that_fits_is_said_to_fit(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(LAPTOP)
    assert main(["fleet", "check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}: fits"


def test_a_fleet_that_does_not_fit_exits_with_2_and_json_has_each_finding(
    file: Path, capsys: pytest.CaptureFixture[str]
):
    file.write_text('[models.m]\nmodel = "lab:huge"')
    assert main(["fleet", "check", str(file), "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert not said["fits"]
    assert {"level": "error", "place": "models.m.model"}.items() <= said["findings"][0].items()


@pytest.mark.parametrize("name", ["up", "status", "down"])
def test_a_fleet_without_a_cluster_needs_no_bringing_up(file: Path, capsys: pytest.CaptureFixture[str], name: str):
    file.write_text(LAPTOP)
    assert main(["fleet", name, str(file)]) == 2
    assert 'add [cluster] with ray = "local"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["up", "status", "down"])
def test_without_ray_the_extra_is_named(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
):
    file.write_text(LOCAL)
    monkeypatch.setattr("orchestrator.workers.ray.local.find_spec", lambda _name: None)
    more = ["--no-check"] if name == "up" else []
    assert main(["fleet", name, str(file), *more]) == 3
    assert "pip install 'ttc-orchestrator[ray]'" in capsys.readouterr().err


def test_a_local_ray_that_does_not_run_is_said_to_be_so(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(LOCAL)
    assert main(["fleet", "status", str(file)]) == 6
    assert f"start it with: ttc fleet up {file}" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_an_error_for_status_and_a_warning_for_check(
    file: Path, capsys: pytest.CaptureFixture[str]
):
    file.write_text(LOCAL.replace('"local"', '"127.0.0.1:1"'))
    assert main(["fleet", "status", str(file)]) == 6
    assert "no Ray answers at 127.0.0.1:1" in capsys.readouterr().err
    assert main(["fleet", "check", str(file)]) == 0
    assert "warning: cluster.ray: no Ray answers" in capsys.readouterr().out


def test_jobs_are_not_begun_on_a_fleet_that_is_not_up(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text(LOCAL)
    assert main(["solve", "1+1", "--fleet", str(file), "--no-store"]) == 2
    assert "start it with: ttc fleet up FILE" in capsys.readouterr().err


def test_solve_uses_the_models_of_a_file(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text('[models.m]\nmodel = "scripted:arithmetic,accuracy=1"\nprices = { output_usd = 1000 }')
    assert main(["solve", "What is 3 + 4?", "--fleet", str(file), "--no-store", "--json", "--policy", "single"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["answer"] == "7"
    assert said["usd"] == pytest.approx(said["usage"]["output_tokens"] / 1000)


@pytest.mark.parametrize(
    ("text", "replicas"),
    [("m=4", Replicas(min=4, max=4)), ("m=1..8", Replicas(min=1, max=8)), ("m=0..2", Replicas(min=0, max=2))],
)
def test_wishes_are_numbers_or_ranges(text: str, replicas: Replicas):
    assert _wish(text) == ("m", replicas)


@pytest.mark.parametrize("text", ["m", "m=", "=4", "m=x", "m=-1", "m=8..1", "m=0", "m=99999", "m=1..", "m=1.5"])
def test_a_wish_that_is_none_is_refused(text: str):
    with pytest.raises(InvalidRequest) as caught:
        _wish(text)
    assert repr(text) in caught.value.message


def test_requests_under_way_are_not_cut_off_unasked():
    busy = [ModelStatus(name="a", state="ready", ongoing=3), ModelStatus(name="b", state="ready")]
    with pytest.raises(JobConflict, match="3 requests are under way; add --yes"):
        _confirm(busy, as_json=True)
    _confirm(busy[1:], as_json=True)


def test_every_command_explains_itself():
    for words in (["--help"], *([name, "--help"] for name in ("check", "up", "status", "scale", "down"))):
        said = CliRunner().invoke(fleet, words)
        assert said.exit_code == 0
        assert len(said.output.splitlines()) > 5


@pytest.mark.parametrize("name", ["fleets/laptop", "fleets/gpu_box", "fleets/cluster", "ray/fleet"])
def test_the_fleet_files_of_the_documentation_have_no_fault_of_their_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("MODELS_KEY", "k")
    errors = [
        finding.message
        for finding in check(read_fleet(EXAMPLES / f"{name}.toml"), read_settings())
        if finding.level is Level.ERROR
    ]
    of_this_machine = ("is not installed", "find no room")
    assert [message for message in errors if not any(part in message for part in of_this_machine)] == []


def test_a_local_cluster_is_noted_and_forgotten(file: Path):
    assert file.parent.is_dir()
    with pytest.raises(InvalidRequest, match="ttc fleet up"):
        local_address("some")
    noted = LocalCluster("127.0.0.2:1", 5, "/somewhere/token")
    write_local("some", noted)
    assert (read_local("some"), local_address("some"), read_local("other")) == (noted, "127.0.0.2:1", None)
    forget_local("some")
    forget_local("some")
    assert read_local("some") is None


def test_choices_over_a_fleet_name_its_models(file: Path):
    file.write_text(LAPTOP + '[models.n]\nmodel = "scripted:arithmetic"\nroles = ["small"]\n')
    choice = ModelChoice.of_options("m", None, None, None, fleet=str(file))
    settings = read_settings()
    assert choice.names(settings) == ["lab:small", "scripted:arithmetic"]
    hosted = choice.opened_by(lambda text: f"hosted:{text}", settings)
    assert hosted.small == "m"
    assert hosted.fleet is not None
    assert [entry.model for entry in hosted.fleet.models.values()] == ["hosted:lab:small", "hosted:scripted:arithmetic"]
    assert choice.over({"small": "other"}) is choice
    file.write_text(LOCAL)
    assert ModelChoice.of_options(None, None, None, None, fleet=str(file)).names(settings) == ["ray:m"]
