"""``ttc submit`` and ``ray job submit`` on a real Ray cluster of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .ray_head import Head, descendants, end, running_head
from .shell import Shell

pytest.importorskip("ray")
pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300)]

NUM_PROBLEMS = 12
SCRIPTED = ("--model", "scripted:arithmetic", "--budget", "tokens=2000", "--policy", "self_consistency", "-n", "4")
LONG = ("--model", "scripted:arithmetic", "--policy", "self_consistency", "-n", "64", "--concurrency", "1")
NUM_LONG = 3000
"""So many problems of 64 samples, one at a time, that a job with them does not end within a test."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head(num_cpus=1) as head:
        yield head


@pytest.fixture
def ttc(shell: Shell, head: Head) -> Shell:
    """A user's shell with files of problems, for the cluster."""
    shell.env["RAY_API_SERVER_ADDRESS"] = head.address
    write_problems(shell.folder / "p.jsonl", NUM_PROBLEMS)
    write_problems(shell.folder / "long.jsonl", NUM_LONG)
    return shell


def write_problems(path: Path, number: int) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(number)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows(path)]


def eventually(found: Callable[[], Any], *, within_s: float = 90.0) -> Any:
    until = time.monotonic() + within_s
    while not (value := found()):
        assert time.monotonic() < until
        time.sleep(0.1)
    return value


def job_of(out: Path) -> str:
    job_id: str = json.loads(out.with_name(f"{out.name}.job").read_text())["job_id"]
    return job_id


def started(ttc: Shell, *more: str) -> tuple[subprocess.Popen[str], Path]:
    """A submission of the long batch of which some results are here."""
    out = ttc.folder / "r.jsonl"
    process = ttc.start("submit", "long.jsonl", *LONG, "--out", "r.jsonl", *more)
    try:
        eventually(lambda: process.poll() is not None or (out.exists() and len(out.read_bytes().splitlines()) >= 3))
        assert process.poll() is None
    except AssertionError:
        process.terminate()
        pytest.fail("no result came: " + "".join(process.communicate(timeout=30))[-2000:])
    return process, out


def test_a_batch_gives_the_same_results_as_on_this_machine(ttc: Shell) -> None:
    here = ttc("solve", "--file", "p.jsonl", *SCRIPTED, "--no-store", "--quiet")
    there = ttc("submit", "p.jsonl", *SCRIPTED, "--out", "r.jsonl", "--json")
    assert there.code == 0, there.err
    assert there.json["num_answered"] == there.json["num_correct"] == NUM_PROBLEMS
    found = {row["id"]: row for row in rows(ttc.folder / "r.jsonl")}
    for row in here.lines:
        same = ("status", "line", "answer", "confidence", "num_samples", "total_tokens", "reference", "is_correct")
        assert {name: found[row["id"]][name] for name in same} == {name: row[name] for name in same}
    again = ttc("submit", "p.jsonl", *SCRIPTED, "--out", "r.jsonl", "--json")
    assert (again.code, again.json["num_skipped"], again.json["output_tokens"]) == (0, NUM_PROBLEMS, 0)


def test_the_plain_line_of_ray_runs_a_batch(ttc: Shell, head: Head) -> None:
    folder = ttc.folder / "work"
    folder.mkdir()
    shutil.copy(ttc.folder / "p.jsonl", folder)
    line = ["ray", "job", "submit", "--address", head.address, "--working-dir", str(folder), "--"]
    solve = ["ttc", "solve", "--file", "p.jsonl", *SCRIPTED, "--no-store", "--quiet"]
    done = subprocess.run([*line, *solve], env=head.env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"id"')]
    assert [row["id"] for row in found] == [str(n) for n in range(1, NUM_PROBLEMS + 1)]
    assert all(row["is_correct"] for row in found)


def test_a_fleet_is_brought_up_by_a_job_and_used_by_another(ttc: Shell, head: Head) -> None:
    folder = ttc.folder / "work"
    folder.mkdir()
    entry = '[models.little]\nmodel = "scripted:arithmetic"\nroles = ["small"]\ncpus = 0.5\n'
    (folder / "fleet.toml").write_text(f'{entry}[cluster]\nray = "auto"\n')
    line = ["ray", "job", "submit", "--address", head.address, "--working-dir", str(folder), "--"]
    for words in (["up", "fleet.toml"], ["down", "fleet.toml"]):
        done = subprocess.run(
            [*line, "ttc", "fleet", *words], env=head.env, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        if words[0] == "up":
            asked = ("--fleet", "work/fleet.toml", *SCRIPTED[2:])
            said = ttc("submit", "p.jsonl", *asked, "--out", "r.jsonl", "--json")
            assert said.code == 0, said.err
            assert said.json["num_correct"] == NUM_PROBLEMS
    absent = ttc("submit", "p.jsonl", *asked, "--out", "absent.jsonl")
    assert absent.code in {2, 6}
    assert "little" in absent.err


def test_ctrl_c_leaves_the_job_which_is_taken_up_and_stopped(ttc: Shell) -> None:
    process, out = started(ttc)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    job_id = job_of(out)
    assert f"ttc submit --stop {job_id}" in said
    num_left = len(rows(out))
    again = ttc.start("submit", "long.jsonl", *LONG, "--out", "r.jsonl")
    eventually(lambda: len(out.read_bytes().splitlines()) > num_left + 3)
    assert job_of(out) == job_id, "the job that ran was followed, no other started"
    stopped = ttc("submit", "--stop", job_id)
    assert stopped.code == 0, stopped.err
    _, said = again.communicate(timeout=60)
    assert again.returncode == 1
    assert f"job {job_id} was stopped" in said
    assert len(ids(out)) == len(set(ids(out))) < NUM_LONG


def test_a_job_that_is_killed_is_gone_on_with(ttc: Shell, head: Head) -> None:
    process, out = started(ttc)
    (pid,) = eventually(lambda: pids_of("submit --job job.json", below=head))
    os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "broke down" in said
    found = ids(out)
    with out.open("a") as file:
        file.write('{"id": "77", "sta')
    last = max(map(int, found)) + 2
    text = (ttc.folder / "long.jsonl").read_text().splitlines()[:last]
    (ttc.folder / "long.jsonl").write_text("\n".join(text) + "\n")
    again = ttc("submit", "long.jsonl", *LONG, "--out", "r.jsonl")
    assert again.code == 0, again.err
    assert sorted(map(int, ids(out))) == list(range(1, last + 1))
    assert ids(out)[: len(found)] == found


def test_a_node_that_dies_with_the_job_on_it_is_reported(ttc: Shell, head: Head) -> None:
    with head.node(num_cpus=2) as node:
        process, out = started(ttc, "--cpus", "2")
        end(node)
        _, said = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "broke down" in said
    assert "runs only what is missing" in said
    assert len(ids(out)) == len(set(ids(out)))


def test_a_job_that_cannot_open_its_model_says_why(ttc: Shell) -> None:
    said = ttc("submit", "p.jsonl", "--model", "scripted:none_such", "--out", "r.jsonl", "--json")
    assert said.code == 2
    assert "unknown script 'none_such'" in json.loads(said.err.splitlines()[-1])["error"]["message"]


@pytest.mark.parametrize("wrong", ["control store", "agent"])
def test_a_port_of_the_cluster_that_is_not_the_dashboards_is_refused(ttc: Shell, head: Head, wrong: str) -> None:
    port = head.port if wrong == "control store" else head.agent_port
    said = ttc("submit", "p.jsonl", *SCRIPTED, "--address", f"127.0.0.1:{port}")
    assert said.code == 6
    assert "dashboard" in said.err


def pids_of(words: str, *, below: Head) -> list[int]:
    """Python processes of the cluster whose command line has ``words``."""
    found = []
    for pid in descendants(below.pid):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words in line and not line.startswith("/bin/sh"):
            found.append(pid)
    return found
