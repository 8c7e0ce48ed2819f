"""What the MCP server's tools ask for and tell, and where it may listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator import Budget, Orchestrator
from orchestrator.api.commands.mcp import _address
from orchestrator.api.mcp import LocalDesk
from orchestrator.api.mcp.outcomes import Progress
from orchestrator.api.mcp.server import _caps
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.events import Event
from orchestrator.store import JobState
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

PROBLEM = "What is 3 + 4 * 2?"


@pytest.mark.parametrize(
    ("asked", "limits", "granted"),
    [
        (None, Budget(), None),
        ("tokens=50", Budget(), Budget(max_output_tokens=50)),
        (None, Budget(max_output_tokens=100), Budget(max_output_tokens=100)),
        ("tokens=50", Budget(max_output_tokens=100), Budget(max_output_tokens=50)),
        ("tokens=500,seconds=9", Budget(max_output_tokens=100), Budget(max_output_tokens=100, max_seconds=9.0)),
    ],
)
def test_a_call_may_ask_for_less_than_the_limits_and_never_for_more(
    asked: str | None, limits: Budget, granted: Budget | None
):
    assert _caps(asked, None, limits) == granted


def test_a_target_confidence_is_no_cap():
    caps = _caps("tokens=50", 0.9, Budget(max_usd=0.5))
    assert caps == Budget(max_output_tokens=50, max_usd=0.5, target_confidence=0.9)


@pytest.mark.parametrize(
    ("text", "address"),
    [("8765", ("127.0.0.1", 8765)), ("localhost:80", ("localhost", 80)), ("[::1]:80", ("::1", 80))],
)
def test_it_listens_on_this_machine(text: str, address: tuple[str, int]):
    assert _address(text) == address


@pytest.mark.parametrize("text", ["", "x", "0", "70000", "-1", "0.0.0.0:80", "host.example.org:80"])
def test_it_listens_nowhere_else(text: str):
    with pytest.raises(InvalidRequest) as caught:
        _address(text)
    assert caught.value.field == "http"


def test_progress_never_falls_and_knows_the_best_answer():
    progress = Progress()
    seen = [progress.num_tokens]
    for event in (
        Event("delta", {"tokens": 3}),
        Event("sample", {"usage": {"output_tokens": 3}, "node": {"answer": "7"}}, 1),
        Event("sample", {"usage": {"output_tokens": 9}, "node": None}, 2),
        Event("done", {"action": {"type": "Propose", "answer": {"text": "8"}}}, 3),
        Event("from_the_future", {}, 4),
    ):
        progress.take(event)
        seen.append(progress.num_tokens)
    assert seen == [0, 3, 3, 12, 12, 12]
    assert progress.message == "2 samples, 12 tokens, best answer so far: 8"


@asynccontextmanager
async def a_desk(**options: Any) -> AsyncGenerator[tuple[LocalDesk, Orchestrator]]:
    orchestrator = Orchestrator(ScriptedEngine(arithmetic(), latency=Latency(token_s=0.01), **options))
    async with LocalDesk.opened(orchestrator) as desk:
        yield desk, orchestrator


async def test_leaving_a_job_ends_it_in_order():
    async with a_desk() as (desk, _):
        stream = desk.stream(PROBLEM, {"policy": "self_consistency", "params": {"n": 64}})
        started = await anext(stream)
        await stream.aclose()
        ended = await desk.look(started.data["job_id"], wait_s=5.0)
        assert ended.state is JobState.CANCELLED


async def test_closing_the_desk_ends_what_was_started():
    async with a_desk() as (desk, orchestrator):
        started = await desk.start(PROBLEM, {"policy": "self_consistency", "params": {"n": 64}})
        assert started.job_id in orchestrator.running
    assert not orchestrator.running


async def test_what_cannot_be_carried_out_is_refused_before_it_has_a_task():
    async with a_desk() as (desk, orchestrator):
        with pytest.raises(UnknownName):
            await desk.start(PROBLEM, {"policy": "nope"})
        with pytest.raises(UnknownName):
            await desk.cancel("nope")
        assert not await orchestrator.store.list_jobs()


async def test_a_cancelled_wait_leaves_the_job_alone():
    async with a_desk() as (desk, _):
        started = await desk.start(PROBLEM, {"policy": "single"})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await desk.look(started.job_id, wait_s=60.0)
        assert (await desk.look(started.job_id, wait_s=60.0)).answer == "11"
