from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.api.commands.models import models
from orchestrator.errors import ModelUnavailable, UnknownName


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """A shell in which the model `toy` can be had from a file."""
    origin, catalogue = tmp_path / "origin.gguf", tmp_path / "mine.toml"
    origin.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    catalogue.write_text(
        f'[models.toy]\nfile="toy.gguf"\nsize_bytes=7\nsha256="{digest}"\n'
        f'sources=[{{kind="file", path={json.dumps(str(origin))}}}]'
    )
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TTC_CATALOGUE", str(catalogue))
    monkeypatch.setenv("TTC_OFFLINE", "1")
    return CliRunner()


def test_a_model_is_pulled_found_and_removed(runner: CliRunner) -> None:
    pulled = runner.invoke(models, ["pull", "toy"])
    assert pulled.exit_code == 0, pulled.output
    assert Path(pulled.stdout.strip()).read_bytes() == b"weights"
    assert runner.invoke(models, ["path", "toy"]).stdout == pulled.stdout
    assert "7" in runner.invoke(models, ["rm", "toy", "--json"]).output
    assert isinstance(runner.invoke(models, ["path", "toy"]).exception, ModelUnavailable)


def test_the_list_is_json_on_demand(runner: CliRunner) -> None:
    rows = json.loads(runner.invoke(models, ["list", "--json"]).output)
    assert {row["name"]: row["is_pulled"] for row in rows}["toy"] is False
    assert "toy" in runner.invoke(models, ["list"]).output


def test_a_second_name_that_is_unknown_stops_before_the_first_is_fetched(runner: CliRunner) -> None:
    result = runner.invoke(models, ["pull", "toy", "nope"])
    assert isinstance(result.exception, UnknownName)
    assert json.loads(runner.invoke(models, ["list", "--json"]).output)[-1]["is_pulled"] is False


@pytest.mark.parametrize("command", [[], ["list"], ["pull"], ["path"], ["rm"]])
def test_every_command_explains_itself(runner: CliRunner, command: list[str]) -> None:
    result = runner.invoke(models, [*command, "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 100
