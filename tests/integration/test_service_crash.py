"""Processes of the service that die: no job is lost, nothing is paid twice, streams go on without gap or repeat."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator import Budget, Orchestrator, Result
from orchestrator.journal import LOST_ALLOWANCE_TOKENS
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.scripted import open_engine

from .service_command import Stream, command, free_port, serving, until
from .shell import Shell

pytestmark = [pytest.mark.server, pytest.mark.crash]

MODEL = "scripted:arithmetic,token_s=0.01"
PROBLEM = "What is 3 + 4 * 2 - 5 + 6 * 7?"
JOB: dict[str, Any] = {
    "problem": PROBLEM,
    "policy": "adaptive_consistency",
    "params": {"max_samples": 6, "confidence": 0.99, "parallel": 2},
    "seed": 7,
    "budget": {"max_output_tokens": 20_000},
}
SAMPLES, PROMPT = 2, 2 * len(PROBLEM) + 64


def uninterrupted() -> Result:
    async def run() -> Result:
        engine = await open_engine("arithmetic")
        async with Orchestrator(engine) as ttc:
            return await ttc.solve(
                PROBLEM,
                policy=JOB["policy"],
                params=JOB["params"],
                seed=JOB["seed"],
                budget=Budget(**JOB["budget"]),
            )

    return asyncio.run(run())


def check_paid(store: Path, job_id: str, expected: Result, *, num_kills: int) -> None:
    """Holds what the job has paid and bought against a run without interruption."""

    async def replayed() -> tuple[Result, dict[str, Any]]:
        async with Orchestrator(ScriptedEngine("never asked"), store=store) as ttc:
            ttc.store.check_integrity()
            record = await ttc.store.get(job_id)
            return await ttc.replay(job_id), record.result or {}

    result, stored = asyncio.run(replayed())
    lost = stored["usage"].get("lost_tokens", 0)
    assert json.dumps(result.tree.to_json()) == json.dumps(expected.tree.to_json())
    assert stored["answer"] == expected.text
    assert stored["total_tokens"] - lost == expected.usage.total_tokens, "paid = uninterrupted + lost"
    most = expected.usage.max_sequential_tokens + LOST_ALLOWANCE_TOKENS + PROMPT
    assert lost <= num_kills * SAMPLES * most, "lost is no more than what can have been in flight"


def check_rows(stream: Stream) -> None:
    assert [seq for seq, _, _ in stream.rows] == list(range(len(stream.rows))), "no gap, no repeat"
    assert [kind for _, kind, _ in stream.rows].count("final") == 1


@pytest.mark.timeout(180)
def test_a_killed_server_goes_on_after_its_restart_and_its_streams_too(tmp_path: Path) -> None:
    shell, port, store, rng = Shell(tmp_path), free_port(), tmp_path / "jobs.sqlite", random.Random(5)
    expected = uninterrupted()
    args = ("--model", MODEL, "--store", str(store))
    with serving(shell, *args, port=port) as (first, client):
        job_id = client.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "k"}).json()["id"]
        stream = Stream(f"http://127.0.0.1:{port}", job_id)
        following = threading.Thread(target=stream.follow)
        following.start()
        until(lambda: any(kind == "sample" for _, kind, _ in stream.rows))
        time.sleep(rng.uniform(0, 0.1))
        first.kill()
        num_rows = len(stream.rows)
    with serving(shell, *args, port=port) as (_, client):
        again = client.post("/v1/jobs", json=JOB, headers={"Idempotency-Key": "k"}).json()
        ended = client.get(f"/v1/jobs/{job_id}?wait=30").json()
        following.join(30)
    assert again["id"] == job_id
    assert (ended["state"], ended["answer"]) == ("succeeded", expected.text)
    assert stream.num_connections >= 2
    assert len(stream.rows) > num_rows
    check_rows(stream)
    check_paid(store, job_id, expected, num_kills=1)


@pytest.mark.timeout(180)
def test_of_two_controllers_on_one_file_the_other_goes_on_when_one_is_killed(tmp_path: Path) -> None:
    shell, store = Shell(tmp_path), tmp_path / "jobs.sqlite"
    expected = uninterrupted()
    args = ("--model", MODEL, "--store", str(store))
    with (
        serving(shell, *args, "--concurrency", "0") as (_, client),
        command(shell, "controller", *args, "--concurrency", "4") as one,
        command(shell, "controller", *args, "--concurrency", "4") as two,
    ):
        for controller in (one, two):
            controller.wait_for_line(r"(running jobs of)")
        sent = [client.post("/v1/jobs", json={**JOB, "labels": {"n": str(n)}}).json()["id"] for n in range(8)]
        stream = Stream(str(client.base_url).rstrip("/"), sent[0])
        following = threading.Thread(target=stream.follow)
        following.start()
        until(lambda: client.get("/v1/jobs?state=running").json()["data"])
        time.sleep(0.4)
        one.kill()
        ended = [client.get(f"/v1/jobs/{job_id}?wait=30").json() for job_id in sent]
        following.join(30)
    assert {job["state"] for job in ended} == {"succeeded"}
    check_rows(stream)
    for job_id in sent:
        check_paid(store, job_id, expected, num_kills=1)


@pytest.mark.timeout(120)
def test_a_chat_whose_process_is_killed_ends_as_cancelled_and_is_not_run_again(tmp_path: Path) -> None:
    shell, store = Shell(tmp_path), tmp_path / "jobs.sqlite"
    args = ("--model", "scripted:arithmetic,token_s=0.2", "--store", str(store))
    body = {"model": "ttc/single", "messages": [{"role": "user", "content": PROBLEM}], "stream": True}
    with (
        serving(shell, *args) as (first, client),
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("data:")
        time.sleep(1.5)  # by then its first tokens are on record
        first.kill()
        with pytest.raises(httpx.TransportError):
            list(lines)
    with serving(shell, *args) as (_, client):
        until(lambda: client.get("/v1/jobs?state=cancelled").json()["data"])
        (job,) = client.get("/v1/jobs").json()["data"]
    assert job["stop_reason"] == "cancelled"
    assert job["usage"]["lost_tokens"] > 0
