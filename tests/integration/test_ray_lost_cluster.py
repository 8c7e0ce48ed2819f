"""A cluster that is gone takes no process of ours with it; one that comes back is joined again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.ray_nodes import Nodes
from orchestrator.config import RaySettings, read_settings
from orchestrator.engine import Delta, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.errors import EngineFailed, ServiceFailed
from orchestrator.models import open_model

pytest.importorskip("ray")

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(400)]

DEPLOY = """
import sys
from orchestrator.fleet_file import FleetFile
from orchestrator.workers.ray.fleet import DeployedFleet
from orchestrator.workers.ray.joining import joined
with joined(sys.argv[1], namespace="ttc"):
    models = {"small": {"model": "scripted:babble,token_s=0.01", "cpus": 0.1}}
    DeployedFleet("ttc").deploy(FleetFile.model_validate({"models": models, "cluster": {"ray": "auto"}}))
"""


def deploy(nodes: Nodes) -> None:
    """From another process: this one stays out of the cluster."""
    subprocess.run([sys.executable, "-P", "-c", DEPLOY, nodes.address], check=True, timeout=180)


def asking(name: str, num_tokens: int) -> GenerateRequest:
    prompt = Prompt((Message("user", "Talk."),))
    return GenerateRequest(request_id=name, prompt=prompt, samples=(SampleSpec(1, num_tokens),))


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Any]:
    """The model, through a process of its own. Any: its class depends on its abilities."""
    settings = read_settings().model_copy(update={"ray": RaySettings(address=address, open_s=120)})
    engine = await open_model("ray:small", settings=settings)
    try:
        yield engine
    finally:
        await engine.aclose()


async def tokens(engine: Any, request: GenerateRequest, begun: asyncio.Event | None = None) -> int:
    taken = 0
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            taken += event.num_tokens
            if begun is not None:
                begun.set()
    return taken


@pytest.mark.soak  # two clusters, and the time that it takes to be sure that one is gone
async def test_streams_fail_retryably_and_the_next_cluster_is_joined_by_itself(tmp_path: Path) -> None:
    with Nodes(2, state=tmp_path) as nodes:
        port = int(nodes.address.rpartition(":")[2])
        await asyncio.to_thread(deploy, nodes)
        async with opened(nodes.address) as engine:
            begun = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                stream = group.create_task(failure(engine, asking("lost", 100_000), begun))
                await begun.wait()
                await asyncio.to_thread(nodes.kill, 0)
            assert stream.result().is_retryable
            assert "Traceback" not in stream.result().message
            nodes.__exit__(None, None, None)
            with Nodes(2, port=port, state=tmp_path) as again:
                await asyncio.to_thread(deploy, again)
                assert await served(engine, within_s=150) == 20


async def failure(engine: Any, request: GenerateRequest, begun: asyncio.Event) -> EngineFailed:
    try:
        await tokens(engine, request, begun)
    except EngineFailed as error:
        return error
    raise AssertionError("the stream ended well")


async def served(engine: Any, *, within_s: float) -> int:
    """Tokens of the first request that is served, as a controller tries again."""
    deadline = time.monotonic() + within_s
    for attempt in range(10_000):
        try:
            return await tokens(engine, asking(f"next-{attempt}", 20))
        except EngineFailed as error:
            if not error.is_retryable or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
    raise AssertionError("it was tried often enough")


async def test_where_no_cluster_answers_is_said_with_the_way_out() -> None:
    with pytest.raises((ServiceFailed, EngineFailed), match="no Ray answers at"):
        async with opened("127.0.0.1:1"):
            raise AssertionError
