"""What a job server is told and how its answers are read; beside it, what every cluster has in common."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.workers.ray.jobs import MAX_PACKAGE_BYTES, RAY_VERSION, RayJobs
from orchestrator.workers.ray.tokens import token_of

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
        (" http://[::1]:8265 ", "http://[::1]:8265"),
    ],
)
def test_addresses_are_written_in_one_way(given: str, address: str) -> None:
    assert RayJobs(given).address == address


@pytest.mark.parametrize("given", ["", "http://", "ray://head:10001", "http://head:99999", "http://[::1", "ftp://head"])
def test_what_is_no_address_of_a_dashboard_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="8265") as caught:
        RayJobs(given)
    assert caught.value.field == "address"


async def test_files_that_no_job_server_takes_are_refused_before_they_are_sent() -> None:
    async with RayJobs("http://127.0.0.1:1") as jobs:
        with pytest.raises(InvalidRequest, match="--in-place"):
            await jobs.upload(bytes(MAX_PACKAGE_BYTES + 1))


def test_the_limit_is_below_that_of_ray() -> None:
    constants = pytest.importorskip("ray._private.ray_constants")
    assert MAX_PACKAGE_BYTES < constants.DASHBOARD_CLIENT_MAX_SIZE


def test_the_version_is_the_one_that_the_extra_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    major, minor = map(int, RAY_VERSION.split("."))
    assert f"ray[default,serve]>={RAY_VERSION},<{major}.{minor + 1}" in project["optional-dependencies"]["ray"]


def test_tokens_are_found_as_rays_own_commands_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home folder\n")
    named = tmp_path / "token"
    named.write_text("of the file\n")
    assert token_of({}) is None, "nobody said that the cluster wants one"
    assert token_of({"RAY_AUTH_MODE": "token"}) == "of the home folder"
    assert token_of({"RAY_AUTH_TOKEN_PATH": str(named)}) == "of the file"
    assert token_of({"RAY_AUTH_TOKEN": "given", "RAY_AUTH_TOKEN_PATH": str(named)}) == "given"
    assert token_of({"RAY_AUTH_TOKEN": "given", "RAY_AUTH_MODE": "disabled"}) is None
    with pytest.raises(InvalidRequest, match="RAY_AUTH_TOKEN_PATH"):
        token_of({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
