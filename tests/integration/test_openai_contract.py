"""The openai engine, against a real server, keeps the promises of `Engine`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orchestrator.engine import Engine
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers.openai import open_engine

from .conftest import RunningServer

pytestmark = [pytest.mark.server, pytest.mark.model, pytest.mark.slow]


class TestChatCompletions(EngineContract):
    api = "chat"

    @pytest.fixture
    async def engine(self, llama_cpp_server: RunningServer) -> AsyncIterator[Engine]:
        engine = await open_engine(base_url=llama_cpp_server.base_url, context_length=512, api=self.api)
        yield engine
        await engine.aclose()

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine


class TestCompletions(TestChatCompletions):
    api = "completions"
