from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.api.service.openai.chat_request import ChatRequest
from orchestrator.api.service.openai.planning import plan
from orchestrator.api.service.openai.progress import Progress
from orchestrator.api.service.openai.sse import with_heartbeats
from orchestrator.api.service.openai.watching import Watch
from orchestrator.config import Settings
from orchestrator.errors import NoAnswer
from orchestrator.events import Event
from orchestrator.fleet import Fleet
from orchestrator.testing import ScriptedEngine


async def test_silence_is_told_and_nothing_is_lost() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.1)
        yield 2

    seen = [item async for item in with_heartbeats(items(), every_s=0.03)]
    assert [item for item in seen if item is not None] == [1, 2]
    assert seen.count(None) >= 2
    assert seen[-1] == 2


async def test_errors_come_after_what_came_before_them() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise NoAnswer("nothing")

    seen: list[int | None] = []
    with pytest.raises(NoAnswer):  # noqa: PT012
        async for item in with_heartbeats(items(), every_s=1):
            seen.append(item)  # what came before the error
    assert seen == [1]


async def test_leaving_leaves_the_source_too() -> None:
    is_left = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            is_left.set()

    following = with_heartbeats(items(), every_s=1)
    assert await anext(following) == 1
    await following.aclose()
    async with asyncio.timeout(1):
        await is_left.wait()


def test_progress_is_told_in_one_line_each() -> None:
    progress = Progress()
    node = {"answer": "a\nb" * 100, "output_tokens": 7}
    line = progress.line(Event("sample", {"node": node}))
    assert line is not None
    assert line.startswith("sample 1: answer a b")
    assert "\n" not in line
    assert len(line) < 120
    assert progress.line(Event("sample", {"node": {"output_tokens": 3}})) == "sample 2: no answer (3 tokens)"
    proposed = {"type": "Propose", "answer": {"text": "6", "confidence": 0.5}}
    assert progress.line(Event("done", {"action": proposed})) == "best so far: 6, confidence 0.50"
    assert progress.line(Event("spent", {})) is None
    assert progress.line(Event("sample", {"failed": {}})) is None


def test_replies_are_told_apart_before_the_journal_says_which_they_are() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "why?"}], "n": 2}
    fleet = Fleet.of(small=ScriptedEngine("x", name="tiny"))
    watch = Watch(plan(ChatRequest.model_validate(body).wish(), fleet, Settings()))

    def told(kind: str, node: str, text: str) -> list[tuple[int, str]]:
        return [(shown.place, shown.piece.text) for shown in watch.take(Event(kind, {"node": node, "text": text}))]

    assert told("delta", "1.1", "b") == []
    assert told("delta", "1.0", "a") == []
    assert told("answer_delta", "1.0", "a") == [(1, "b"), (0, "a")]
    assert told("delta", "1.1", "d") == [(1, "d")]
    assert told("delta", "2.0", "a conclusion") == []
    assert watch.rest(0, "a conclusion").text == " conclusion"
