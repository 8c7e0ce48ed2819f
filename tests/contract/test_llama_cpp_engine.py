"""The embedded engine keeps the promises of the protocols it implements, in its usual and its deterministic mode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.engine import Engine
from orchestrator.testing.ability_contracts import (
    EmbedsContract,
    GivesLogitsContract,
    RewardsStepsContract,
    ScoresTokensContract,
    TokenizesContract,
)
from orchestrator.testing.engine_contract import EngineContract

pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")

from orchestrator.bench.lab.model_names import REWARD_MODEL, weights_path
from orchestrator.errors import CapabilityMissing
from orchestrator.workers.catalogue import Catalogue
from orchestrator.workers.llama_cpp import LlamaCppEngine, open_engine

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model_path() -> Path:
    from orchestrator.errors import ModelUnavailable

    try:
        return Catalogue.from_environment().pull("smollm2-135m")
    except ModelUnavailable as error:
        pytest.skip(str(error))


class TestTheLabsRewardModel(RewardsStepsContract):
    steps = ("4+17=21\n\n", "3*21=2\n\n", "2-5=58\n\n", "The final answer is \\boxed{58}")

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        engine = await open_engine(weights_path(REWARD_MODEL), name=REWARD_MODEL, context_cells=1024, max_sequences=4)
        yield engine
        await engine.check_integrity()
        await engine.aclose()


async def test_another_model_gives_no_rewards(model_path: Path) -> None:
    engine = await opened(model_path)
    with pytest.raises(CapabilityMissing, match="rewards of steps"):
        await engine.reward_steps(TestTheLabsRewardModel().prompt(), ("one",))
    await engine.aclose()


async def opened(path: Path, *, is_deterministic: bool = False) -> LlamaCppEngine:
    return await open_engine(path, name="smollm2-135m", context_cells=1024, is_deterministic=is_deterministic)


class TestTheEmbeddedEngine(
    EngineContract, TokenizesContract, ScoresTokensContract, EmbedsContract, GivesLogitsContract
):
    is_deterministic = False
    tolerance = 0.05  # batches of different shapes; see docs/design/embedded_engine.md

    @pytest.fixture
    async def engine(self, model_path: Path) -> AsyncIterator[Engine]:
        engine = await opened(model_path, is_deterministic=self.is_deterministic)
        yield engine
        await engine.check_integrity()
        await engine.aclose()

    @pytest.fixture
    async def disposable_engine(self, model_path: Path) -> AsyncIterator[Engine]:
        engine = await opened(model_path, is_deterministic=self.is_deterministic)
        yield engine
        await engine.aclose()


@pytest.mark.soak
class TestTheEmbeddedEngineInDeterministicMode(TestTheEmbeddedEngine):
    is_deterministic = True
    tolerance = 1e-3
    is_repeatable = True
