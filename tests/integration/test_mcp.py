"""``ttc mcp`` as agents use it: the client of the `mcp` package over stdin and stdout, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from orchestrator.store import JobState
from orchestrator.stores import open_store
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

from .app_in_thread import running_app

pytestmark = pytest.mark.server

PROBLEM = "What is 3 + 4 * 2?"
_COMMAND = ["-P", "-m", "orchestrator.api.cli", "mcp"]


@asynccontextmanager
async def connected(folder: Path, *options: str) -> AsyncIterator[Client]:
    """A client of ``ttc mcp`` with these options."""
    environment = {**os.environ, "HOME": str(folder)}
    parameters = StdioServerParameters(command=sys.executable, args=[*_COMMAND, *options], env=environment)
    with (folder / "errors.txt").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors)) as client:
            yield client


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


async def test_an_agent_solves_starts_looks_waits_and_cancels(tmp_path: Path):
    told: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    options = ["--model", "scripted:arithmetic,token_s=0.01", "--store", str(tmp_path / "jobs.db")]
    async with connected(tmp_path, *options, "--budget", "tokens=3000") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == ["cancel_job", "job_result", "job_status", "solve", "start_job"]
        assert tools["solve"].input_schema["required"] == ["problem"]

        arguments = {"problem": PROBLEM, "policy": "self_consistency", "params": {"n": 4}, "budget": "tokens=9000"}
        result = await client.call_tool("solve", arguments, progress_callback=note)
        solved = result.structured_content or {}
        assert (solved["state"], solved["answer"], solved["num_samples"]) == ("succeeded", "11", 4)
        assert solved["confidence_kind"] == "majority_posterior"
        assert [value for value, _, _ in told] == sorted({value for value, _, _ in told})
        assert told
        assert {total for _, total, _ in told} == {3000.0}  # the caller asked for more than the command allows

        started = await called(client, "start_job", problem=PROBLEM, policy="self_consistency", params={"n": 64})
        assert started["state"] == "running"
        assert (await called(client, "job_status", job_id=started["job_id"]))["answer"] is None
        unfinished = await called(client, "job_result", job_id=started["job_id"], wait_s=0.05)
        assert unfinished["state"] == "running"
        cancelled = await called(client, "cancel_job", job_id=started["job_id"])
        assert cancelled["state"] == "cancelled"
        quick = await called(client, "start_job", problem=PROBLEM, policy="single")
        assert (await called(client, "job_result", job_id=quick["job_id"]))["answer"] == "11"

        refused = await client.call_tool("solve", {"problem": PROBLEM, "policy": "nope"})
        assert refused.is_error
        assert "unknown policy 'nope'" in refused.content[0].text
        unknown = await client.call_tool("job_status", {"job_id": "nope"})
        assert unknown.is_error


async def test_a_cancelled_request_ends_its_job(tmp_path: Path):
    path = tmp_path / "jobs.db"
    async with connected(tmp_path, "--model", "scripted:arithmetic,token_s=0.02", "--store", str(path)) as client:
        is_under_way = asyncio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            is_under_way.set()

        arguments = {"problem": PROBLEM, "policy": "self_consistency", "params": {"n": 64}}
        task = asyncio.create_task(client.call_tool("solve", arguments, progress_callback=note))
        await is_under_way.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store = await open_store(path)
        try:
            async with asyncio.timeout(10):
                while not (record := (await store.list_jobs())[0]).state.is_terminal:
                    await store.wait_for_news(record.id, after=10**9, timeout_s=0.1)
        finally:
            await store.aclose()
        assert record.state is JobState.CANCELLED
        assert (await called(client, "job_status", job_id=record.id))["state"] == "cancelled"


async def test_jobs_go_to_a_service_if_one_is_named(tmp_path: Path):
    engine = ScriptedEngine(arithmetic(), latency=Latency(token_s=0.005))
    with running_app(engine) as app:
        async with connected(tmp_path, "--url", app.address) as client:
            solved = await called(client, "solve", problem=PROBLEM, policy="self_consistency", params={"n": 3})
            assert (solved["answer"], solved["num_samples"]) == ("11", 3)
            assert app.do(app.orchestrator.store.get(solved["job_id"])).state is JobState.SUCCEEDED
            started = await called(client, "start_job", problem=PROBLEM, policy="self_consistency", params={"n": 64})
            assert (await called(client, "cancel_job", job_id=started["job_id"]))["state"] == "cancelled"


def test_stdout_carries_the_protocol_only_and_the_end_of_stdin_ends_it(tmp_path: Path):
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "solve", "arguments": {"problem": PROBLEM}},
        },
    ]
    process = subprocess.Popen(
        [sys.executable, *_COMMAND, "--model", "scripted:arithmetic", "--no-store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write("".join(json.dumps(line) + "\n" for line in lines).encode() + b"this is no JSON\n")
        process.stdin.flush()
        answers: list[dict[str, Any]] = []
        while not any(answer.get("id") == 2 for answer in answers):
            answers.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        answers += [json.loads(line) for line in process.stdout]
        assert process.wait(timeout=15) == 0
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    (solved,) = [answer for answer in answers if answer.get("id") == 2]
    assert solved["result"]["structuredContent"]["answer"] == "11"


async def test_a_model_that_cannot_be_opened_is_told_to_the_agent(tmp_path: Path):
    async with connected(tmp_path, "--model", str(tmp_path / "missing.gguf"), "--no-store") as client:
        result = await client.call_tool("solve", {"problem": PROBLEM})
        assert result.is_error
        assert "missing.gguf" in result.content[0].text


@pytest.fixture
def http_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, *_COMMAND, "--http", str(port), "--model", "scripted:arithmetic", "--no-store"]
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(tmp_path)})
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.kill()
        process.wait()


async def test_over_http(http_server: tuple[str, subprocess.Popen[bytes]]):
    address, process = http_server
    async with Client(address) as client:
        assert (await called(client, "solve", problem=PROBLEM))["answer"] == "11"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=15) in {0, 130}
