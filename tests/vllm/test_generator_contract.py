"""vLLM with a model that writes text keeps the promises of every protocol it has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.engine import Embeds, Engine, GivesLogits, RewardsSteps, ScoresTokens, Tokenizes
from orchestrator.testing.ability_contracts import GivesLogitsContract, ScoresTokensContract, TokenizesContract
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers.vllm.engine import VllmEngine

pytest.importorskip("vllm", reason="vLLM is not installed")

from .checkpoints import random_llama
from .conftest import OpenEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def babbler(open_one: OpenEngine, models: Path) -> VllmEngine:
    return await open_one(random_llama(models / "babbler"))


class TestABabbler(EngineContract, TokenizesContract, ScoresTokensContract, GivesLogitsContract):
    """Random weights: long replies of bytes that are often no UTF-8."""

    @pytest_asyncio.fixture(loop_scope="module")
    async def engine(self, babbler: VllmEngine) -> AsyncIterator[Engine]:
        yield babbler
        await self.idle(babbler)
        await babbler.check_integrity()

    @pytest_asyncio.fixture(loop_scope="module")
    async def disposable_engine(self, open_one: OpenEngine, models: Path) -> VllmEngine:
        return await open_one(models / "babbler", name="disposable")

    async def test_it_has_the_protocols_of_a_writer_only(self, engine: Engine) -> None:
        for protocol in (Engine, Tokenizes, ScoresTokens, GivesLogits):
            assert isinstance(engine, protocol)
        assert not isinstance(engine, Embeds | RewardsSteps)
