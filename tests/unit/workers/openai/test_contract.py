"""The openai engine keeps the promises of `Engine`, with a server of each kind behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from orchestrator.engine import Engine, GenerateRequest, GenerationEvent, Prefilled
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers.openai import OpenAIEngine, open_engine

from .fake_server import Body, FakeServer, chunk, usage

_OVERFLOW = "This model's maximum context length is 4096 tokens. However, your messages resulted in {} tokens."


class CountingServer(FakeServer):
    """Counts as far as it is let, reads 4096 tokens of four bytes, and continues partial replies."""

    has_running_usage = False

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        length = len(str((await request.json())["messages"])) // 4
        if length > 4096:
            error = {"message": _OVERFLOW.format(length), "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        return await super()._complete(request)

    async def say_words(self, body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        count, tokens = body.get("n", 1), len(str(body["messages"])) // 4
        limit = min(body["max_tokens"], 500)
        running: dict[str, Any] = {}
        start = 7 if body["messages"][-1]["content"].endswith("6\n") else 1
        for number in range(start, start + limit):
            for index in range(count):
                if self.has_running_usage:
                    running = {"usage": {"prompt_tokens": tokens, "completion_tokens": number - start + 1}}
                lines = f"\n{number}" if start == 1 and body.get("continue_final_message") else f"{number}\n"
                if body["messages"][-1]["content"].endswith("6"):
                    lines = f"\n{number + 6}"
                top = [{"token": f"t{place}", "logprob": -1.0 - place} for place in range(body.get("top_logprobs", 0))]
                logprobs = {"content": [{"token": lines, "logprob": -1.0, "top_logprobs": top}]} if top else None
                yield chunk(lines, index, logprobs=logprobs) | running
            await asyncio.sleep(0.001)
        for index in range(count):
            yield chunk(None, index, finish_reason="length" if limit == body["max_tokens"] else "stop") | running
        yield usage(tokens, count * limit)


class CountsOnce:
    """The engine, its corrections of the prompt's length left out: the suite reads the first."""

    def __init__(self, engine: OpenAIEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerationEvent, None]:
        has_begun = False
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                if not (has_begun and isinstance(event, Prefilled)):
                    yield event
                has_begun = True


class OpenAIContract(EngineContract):
    patience_s = 5.0
    stall_s = 0.1
    owner = "someone"
    streams = True

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        server = CountingServer()
        server.owned_by, server.has_running_usage = self.owner, self.owner == "vllm"
        await server.start()
        engine = await open_engine("toy", base_url=server.base_url, structured_output=False, stream=self.streams)
        wrapped = CountsOnce(engine)
        assert isinstance(wrapped, Engine)
        yield wrapped
        await engine.aclose()
        await server.stop()

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine


class TestAnyServer(OpenAIContract):
    pass


class TestWholeReplies(OpenAIContract):
    streams = False


class TestVllm(OpenAIContract):
    owner = "vllm"


class TestLlamaCppPython(OpenAIContract):
    owner = "me"
