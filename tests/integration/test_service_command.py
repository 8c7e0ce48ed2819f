"""`ttc serve` as an operator meets it: where it listens, how it stops, how many processes it is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.store import JobState
from orchestrator.stores import SqliteStore

from .service_command import is_up, serving, until
from .shell import SCRIPTED, Shell

pytestmark = pytest.mark.server

SLOW = ("--model", "scripted:arithmetic,token_s=0.1")
JOB: dict[str, Any] = {"problem": "What is 3 + 4?", "policy": "self_consistency", "params": {"n": 3}}


def states(store: Path) -> dict[JobState, int]:
    async def count() -> dict[JobState, int]:
        found = SqliteStore(store)
        try:
            return await found.count_jobs()
        finally:
            await found.aclose()

    return asyncio.run(count())


@pytest.mark.timeout(90)
def test_it_says_where_it_is_and_answers_there(tmp_path: Path) -> None:
    with serving(Shell(tmp_path), *SCRIPTED, "--store", "memory:") as (running, client):
        job = client.post("/v1/jobs?wait=10", json=JOB).json()
        page = client.get("/")
        code = running.stop()
    address = str(client.base_url).rstrip("/")
    assert job["answer"] == "7"
    assert page.headers["content-type"].startswith("text/html")
    assert f"  dashboard  {address}/" in running.lines
    assert any("no API keys" in line for line in running.lines)
    assert code == 0


@pytest.mark.timeout(90)
def test_sigterm_lets_what_runs_end_within_the_grace_and_the_rest_goes_on_later(tmp_path: Path) -> None:
    store, shell = tmp_path / "jobs.sqlite", Shell(tmp_path)
    with serving(shell, *SLOW, "--store", str(store), "--grace", "0.5", "--concurrency", "1") as (running, client):
        ids = [client.post("/v1/jobs", json=JOB).json()["id"] for _ in range(2)]
        until(lambda: client.get("/v1/jobs?state=running").json()["data"])
        streamed: list[str] = []

        def follow() -> None:
            with client.stream("GET", f"/v1/jobs/{ids[0]}/events") as response:
                streamed.extend(response.iter_lines())

        following = threading.Thread(target=follow)
        following.start()
        until(lambda: streamed)
        started = time.monotonic()
        code = running.stop()
        took_s = time.monotonic() - started
        following.join(5)
    assert code == 0
    assert took_s < 8
    assert "event: begin" in streamed
    assert "event: final" not in streamed
    assert states(store) == {JobState.QUEUED: 2}
    with serving(shell, *SCRIPTED, "--store", str(store)) as (_, client):
        ended = [client.get(f"/v1/jobs/{job_id}?wait=20").json() for job_id in ids]
    assert [job["answer"] for job in ended] == ["7", "7"]


@pytest.mark.timeout(90)
def test_while_it_drains_it_takes_nothing_new_and_still_answers(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with serving(shell, *SLOW, "--store", str(tmp_path / "j.sqlite"), "--grace", "20") as (running, client):
        job_id = client.post("/v1/jobs", json=JOB).json()["id"]
        until(lambda: client.get("/v1/jobs?state=running").json()["data"])
        running.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        refused = client.post("/v1/jobs", json=JOB)
        ended = client.get(f"/v1/jobs/{job_id}")
        code = running.process.wait(15)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "service_stopping"
    assert ended.status_code == 200
    assert code == 0
    assert states(tmp_path / "j.sqlite") == {JobState.SUCCEEDED: 1}


@pytest.mark.timeout(90)
def test_ctrl_c_drains_and_a_second_one_stops_at_once(tmp_path: Path) -> None:
    shell, store = Shell(tmp_path), tmp_path / "j.sqlite"
    slower = ("--model", "scripted:arithmetic,token_s=5")
    with serving(shell, *slower, "--store", str(store), "--grace", "60") as (running, client):
        client.post("/v1/jobs", json=JOB)
        until(lambda: client.get("/v1/jobs?state=running").json()["data"])
        running.process.send_signal(signal.SIGINT)
        running.wait_for_line(r"(Ctrl-C again)")
        code = running.stop(signal.SIGINT, within_s=3)
    assert code == 130
    assert states(store) == {JobState.RUNNING: 1}


@pytest.mark.timeout(60)
def test_it_does_not_listen_beyond_this_machine_without_keys(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    done = shell.run("serve", *SCRIPTED, "--store", "jobs.sqlite", "--host", "0.0.0.0", "--port", "0")
    assert done.code == 2
    assert "ttc keys create --tenant NAME --store jobs.sqlite" in done.err
    assert "serving on" not in done.out


@pytest.mark.timeout(90)
def test_with_a_key_it_listens_everywhere_and_asks_for_it(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    made = shell.run("keys", "create", "--tenant", "alice", "--store", "jobs.sqlite")
    assert made.code == 0, made.err
    key = next(word for word in made.out.split() if word.startswith("ttc_"))
    with serving(shell, *SCRIPTED, "--store", "jobs.sqlite", "--host", "0.0.0.0") as (_, client):
        port = client.base_url.port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as here:
            without = here.post("/v1/jobs", json=JOB)
            given = here.post("/v1/jobs?wait=10", json=JOB, headers={"Authorization": f"Bearer {key}"})
    assert (without.status_code, without.json()["error"]["code"]) == (401, "invalid_api_key")
    assert given.json()["answer"] == "7"


@pytest.mark.timeout(60)
def test_a_port_that_is_taken_is_said_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = Shell(tmp_path).run("serve", *SCRIPTED, "--store", "memory:", "--port", str(port))
    assert done.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--workers", "2", "--store", "memory:"), "cannot be shared"),
        (("--workers", "0"), "--workers must be from 1"),
        (("--concurrency", "-1"), "--concurrency"),
        (("--workers", "2", "--store", "j.sqlite", "--model", "lab:small"), "loaded once for each"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    done = Shell(tmp_path)("serve", *SCRIPTED, *args)
    assert done.code == 2
    assert words in done.err


@pytest.mark.timeout(120)
def test_several_processes_share_an_address_and_one_that_dies_is_started_again(tmp_path: Path) -> None:
    shell, store = Shell(tmp_path), tmp_path / "j.sqlite"
    with serving(shell, *SCRIPTED, "--store", str(store), "--workers", "2") as (running, client):
        until(lambda: len(workers_of(running.process.pid)) == 2)
        jobs = [client.post("/v1/jobs?wait=10", json=JOB).json() for _ in range(3)]
        time.sleep(5.5)  # older than what counts as a failed start
        victim = workers_of(running.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(set(workers_of(running.process.pid)) - {victim}) == 2)
        until(lambda: is_up(client))
        jobs.append(client.post("/v1/jobs?wait=10", json=JOB).json())
        code = running.stop()
        until(lambda: not workers_of(running.process.pid))
    assert {job["answer"] for job in jobs} == {"7"}
    assert code == 0
    assert any("is started again" in line for line in running.lines)


def workers_of(pid: int) -> list[int]:
    """Serving processes below a process, without the interpreter's own helpers."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ValueError):
                continue
    return found
