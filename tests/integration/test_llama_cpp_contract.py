"""The embedded engine, with the smallest real model, keeps the promises of every protocol it implements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.engine import Engine
from orchestrator.testing.ability_contracts import (
    EmbedsContract,
    GivesLogitsContract,
    ScoresTokensContract,
    TokenizesContract,
)
from orchestrator.testing.engine_contract import EngineContract

pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")

from orchestrator.workers.llama_cpp import open_engine

pytestmark = [pytest.mark.model, pytest.mark.slow]


class TestLlamaCpp(EngineContract, TokenizesContract, ScoresTokensContract, EmbedsContract, GivesLogitsContract):
    tolerance = 0.05  # batches of different shapes; see DESIGN on determinism

    @pytest.fixture
    async def engine(self, smollm2_path: Path) -> AsyncIterator[Engine]:
        engine = await open_engine(smollm2_path, name="smollm2", num_threads=1, context_cells=1024, max_sequences=8)
        yield engine
        await engine.aclose()

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine


class TestLlamaCppInDeterministicMode(EngineContract, ScoresTokensContract):
    is_repeatable = True

    @pytest.fixture
    async def engine(self, smollm2_path: Path) -> AsyncIterator[Engine]:
        engine = await open_engine(
            smollm2_path, name="smollm2", num_threads=1, context_cells=1024, is_deterministic=True
        )
        yield engine
        await engine.aclose()
