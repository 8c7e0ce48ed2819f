from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.api.commands.keys import keys
from orchestrator.api.service.security import Gate, KeyBook
from orchestrator.budget import Amount
from orchestrator.errors import InvalidRequest, StoreFailed, UnknownName
from orchestrator.store import JobRecord, Payment
from orchestrator.stores import open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "jobs.sqlite")
    monkeypatch.setenv("TTC_STORE", path)
    return path


def run(*args: str) -> Result:
    return CliRunner().invoke(keys, [*args])


def created(*args: str) -> dict[str, Any]:
    result = run("create", "--tenant", "acme", *args, "--json")
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def listed() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run("list", "--json").stdout)
    return rows


def test_the_key_alone_is_on_stdout_and_it_is_the_only_time_it_is_shown(store: str) -> None:
    result = run("create", "--tenant", "acme", "--name", "ci")
    key = result.stdout.strip()
    assert key.startswith("ttc_")
    assert "\n" not in key
    secret = key.rpartition("_")[2]
    for told in (result.stderr, run("list").output, run("list", "--json").output):
        assert secret not in told
    (row,) = listed()
    assert (row["tenant"], row["name"], row["state"], row["id"]) == ("acme", "ci", "active", key.split("_")[1])
    assert secret not in run("show", row["id"], "--json").output
    assert secret.encode() not in b"".join(file.read_bytes() for file in Path(store).parent.iterdir())


def test_a_key_that_was_made_opens_the_service_and_a_revoked_one_does_not(store: str) -> None:
    made = created()

    async def admitted() -> str:
        opened = await open_store(store)
        try:
            return (await Gate(opened).admit(f"Bearer {made['key']}", is_reading=False)).tenant
        finally:
            await opened.aclose()

    assert asyncio.run(admitted()) == "acme"
    assert run("revoke", made["id"]).exit_code == 0
    assert listed()[0]["state"] == "revoked"
    with pytest.raises(Exception, match="revoked"):
        asyncio.run(admitted())


def test_limits_are_read_as_they_are_written(store: str) -> None:
    made = created(
        *("--per-request", "tokens=2k,seconds=60", "--per-day", "usd=5", "--total", "calls=1000"),
        *("--rate", "90/m", "--max-running", "2", "--max-waiting", "9", "--expires", "30d", "--admin"),
    )
    assert made["limits"] == {
        "per_request": {"max_output_tokens": 2000, "max_seconds": 60.0},
        "per_day": {"max_usd": 5.0},
        "total": {"max_model_calls": 1000},
        "rate_per_s": 1.5,
        "burst": 2,
        "max_running": 2,
        "max_waiting": 9,
    }
    assert made["expires_at"] - made["created_at"] == 30 * 86400
    assert made["is_admin"]


def test_a_cap_that_one_job_can_take_whole_is_pointed_out(store: str) -> None:
    assert "max_usd" in run("create", "--tenant", "acme", "--per-day", "usd=5").stderr
    assert "hint" not in run("create", "--tenant", "acme", "--per-day", "usd=5", "--per-request", "usd=1").stderr


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--tenant", "A b"], "tenant"),
        (["--tenant", "a", "--rate", "ten"], "rate"),
        (["--tenant", "a", "--rate", "0/s"], "rate"),
        (["--tenant", "a", "--burst", "5"], "burst"),
        (["--tenant", "a", "--expires", "soon"], "expires"),
        (["--tenant", "a", "--per-day", "seconds=5"], "per_day"),
        (["--tenant", "a", "--per-request", "tokens"], "budget"),
        (["--tenant", "a", "--store", "memory:"], "store"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_makes_no_key(store: str, options: list[str], field: str) -> None:
    error = run("create", *options).exception
    assert isinstance(error, InvalidRequest)
    assert error.field == field
    assert listed() == []


def test_what_a_key_has_spent_is_shown(store: str) -> None:
    made = created("--per-day", "tokens=1000")

    async def work() -> None:
        opened = await open_store(store)
        try:
            caps = (await KeyBook(opened).get(made["id"])).limits.caps(made["created_at"])
            payment = Payment(made["id"], Amount(output_tokens=300), caps)
            await opened.create(JobRecord(id="a", spec={}), payment=payment)
        finally:
            await opened.aclose()

    asyncio.run(work())
    usage = json.loads(run("show", made["id"], "--json").stdout)["usage"]
    assert usage["today"] == {"spent": {}, "set_aside": {"output_tokens": 300}}
    assert "output_tokens=300" in run("show", made["id"]).stdout


def test_a_whole_key_is_taken_for_its_id_and_not_repeated(store: str) -> None:
    made = created()
    result = run("revoke", made["key"], "--json")
    assert json.loads(result.stdout) == {"revoked": [made["id"]]}


def test_an_unknown_id_stops_before_another_key_is_revoked(store: str) -> None:
    made = created()
    assert isinstance(run("revoke", made["id"], "0123456789ab").exception, UnknownName)
    assert listed()[0]["state"] == "active"


def test_a_store_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    assert isinstance(run("list", "--store", str(path)).exception, StoreFailed)
    assert not path.exists()


@pytest.mark.parametrize("command", [[], ["create"], ["list"], ["show"], ["revoke"]])
def test_every_command_explains_itself(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert len(result.output) > 100
