"""`ttc fleet` on a real Ray of this machine, and controllers of a Redis store that share its models."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.store import JobState
from orchestrator.stores.redis import RedisStore

from .redis_server import RedisServer, eventually
from .service_command import command
from .shell import Finished, Shell

pytest.importorskip("ray")
pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

FILE = """
[models.small]
model = "scripted:arithmetic,accuracy=1,token_s=0.01"
roles = ["small"]
replicas = 2
cpus = 0.1
prices = { prompt_usd = 1, output_usd = 2 }

[models.large]
model = "scripted:arithmetic,accuracy=1"
roles = ["large"]
cpus = 0.1

[models.draft]
model = "scripted:babble,token_s=0.01"
roles = ["draft"]
cpus = 0.1
with = "large"

[cluster]
ray = "local"
namespace = "test-fleet"
cpus = 2
object_store_mib = 100
"""


class Fleet:
    """A fleet that is up.

    Attributes:
        shell: Where its commands run.
        file: Its file.
    """

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.file = shell.folder / "fleet.toml"
        self.write(FILE)

    def write(self, text: str) -> None:
        """Changes the file."""
        self.file.write_text(text, encoding="utf-8")

    def __call__(self, *args: str) -> Finished:
        """Runs a command of `ttc fleet` with the file."""
        done = self.shell.run("fleet", *args, timeout=400)
        assert "Traceback" not in done.out + done.err
        return done

    def up(self) -> Any:
        """Brings it up and returns what was said."""
        done = self("up", "--json")
        assert done.code == 0, done.err
        return done.json

    def model(self, name: str) -> dict[str, Any]:
        """How a model is."""
        return next(model for model in self("status", "--json").json["models"] if model["name"] == name)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(Shell(tmp_path_factory.mktemp("fleet")))
    try:
        said = fleet.up()
        assert said["changes"]["added"] == ["small", "large"]
        assert [model["state"] for model in said["models"]] == ["ready"] * 3
        yield fleet
    finally:
        fleet.shell.run("fleet", "down", "--yes", "--grace", "1")


def test_a_second_up_changes_only_what_has_changed_and_replicas_that_stay_go_on(fleet: Fleet) -> None:
    said = fleet.up()
    assert said["changes"]["same"] == ["small", "large"]
    before = {model["name"]: set(model["ids"]) for model in said["models"]}
    fleet.write(FILE.replace("replicas = 2", "replicas = 3").replace("babble,token_s=0.01", "babble"))
    said = fleet.up()
    assert (said["changes"]["scaled"], said["changes"]["changed"]) == (["small"], ["large"])
    after = {model["name"]: set(model["ids"]) for model in said["models"]}
    assert before["small"] < after["small"]
    assert not before["large"] & after["large"]
    assert fleet("scale", "small=1").code == 0
    deadline = time.monotonic() + 60
    while (small := fleet.model("small"))["replicas"] != {"RUNNING": 1}:
        assert time.monotonic() < deadline, small
    assert set(small["ids"]) < after["small"]
    fleet.write(FILE)


def test_a_model_that_cannot_come_up_is_said_with_its_reason_and_the_others_are_up(fleet: Fleet) -> None:
    fleet.write(FILE + '\n[models.extra]\nmodel = "lab:huge"\ncpus = 0.1\n')
    failed = fleet("up", "--no-check")
    assert failed.code == 6
    assert failed.err.splitlines()[-1] == (
        "error: not all models came up (3 of 4 models are up): extra: unknown model of the lab 'huge'; known: draft, "
        "large, prm, small"
    )
    fleet.write(FILE)
    changes = fleet.up()["changes"]
    assert (changes["removed"], changes["same"]) == (["extra"], ["small", "large"])


def test_two_controllers_share_the_models_and_one_goes_on_when_the_other_is_killed(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.shell.env["TTC_SERVICE__LEASE_S"] = "2"
    with RedisServer(tmp_path, appendfsync="always") as redis:
        args = ("controller", "--fleet", str(fleet.file), "--store", redis.url, "--concurrency", "4")
        with command(fleet.shell, *args) as one, command(fleet.shell, *args) as two:
            for controller in (one, two):
                controller.wait_for_line(r"(running jobs of .* with small, large, draft)")
            asyncio.run(killed_amid_jobs(redis, one.kill))


async def killed_amid_jobs(redis: RedisServer, kill: Any) -> None:
    """24 jobs, of which both controllers have ended some when one is killed."""
    store = await RedisStore.open(redis.url)
    wanted = await queued(store, 24)

    async def ended() -> list[Any]:
        records = [await store.get(job_id) for job_id in wanted]
        return [record for record in records if record.state.is_terminal]

    async with asyncio.timeout(60):
        while len({record.owner for record in await ended()}) < 2:  # noqa: ASYNC110  # other processes end them
            await asyncio.sleep(0.05)
    kill()
    async with asyncio.timeout(60):
        while len(done := await ended()) < len(wanted):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.05)
    assert {record.state for record in done} == {JobState.SUCCEEDED}
    assert {record.result["answer"] for record in done} == {"7"}
    for job_id in wanted:
        kinds = [row.kind for row in await store.read(job_id)]
        assert kinds.count("final") == 1
    assert max(record.epoch for record in done) == 2, "the jobs of the one that was killed were taken up"
    for record in done:
        usage = record.result["usage"]
        lost = usage.get("lost_tokens", 0)
        assert bool(lost) <= (record.epoch == 2)
        assert usage["picodollars"] > 0
    store.check_integrity()
    await store.aclose()


async def queued(store: RedisStore, count: int) -> list[str]:
    """Jobs that wait for a controller."""
    async with Orchestrator("scripted:arithmetic") as here:
        ids = []
        for seed in range(count):
            asked = here.check("What is 3 + 4?", policy="self_consistency", params={"n": 5}, seed=seed)
            record = replace(here.new_record(asked), owner=None)
            await store.create(record)
            ids.append(record.id)
        return ids


async def test_a_fleet_goes_down_only_when_nothing_is_asked_of_it_or_somebody_insists(fleet: Fleet) -> None:
    endless = ("--model", "draft", "--policy", "single", "--max-sample-tokens", "100000", "--no-store", "--quiet")
    solving = fleet.shell.start("solve", "3+4", "--fleet", str(fleet.file), *endless)
    try:
        await eventually(lambda: fleet.model("draft")["ongoing"] > 0, within_s=90)
        refused = fleet("down")
        assert refused.code == 4
        assert "requests are under way; add --yes" in refused.err
    finally:
        solving.kill()
        solving.communicate()
    done = fleet("down", "--yes", "--grace", "5", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"removed": ["large", "small"], "ray_ended": True})
    gone = fleet("status")
    assert gone.code == 6
    assert "start it with: ttc fleet up" in gone.err
