"""Engines in processes of their own keep the promises of the protocols that their engines implement, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from orchestrator.engine import Embeds, Engine, GivesLogits, RewardsSteps, ScoresTokens, Tokenizes
from orchestrator.testing.ability_contracts import (
    EmbedsContract,
    GivesLogitsContract,
    RewardsStepsContract,
    ScoresTokensContract,
    TokenizesContract,
)
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers.hosted import HostedEngine, open_engine

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]

ENGINES_TO_HOST = str(Path(__file__).parents[1] / "unit" / "workers" / "hosted")


class Hosted:
    """What a test class hosts; its tests share the engine."""

    model: ClassVar[str] = "scripted:babble"
    opener: ClassVar[str | None] = None

    @pytest_asyncio.fixture(loop_scope="class")
    async def engine(self, shared: HostedEngine) -> AsyncIterator[Engine]:
        yield shared
        await shared.check_integrity()

    @pytest_asyncio.fixture(loop_scope="class")
    async def disposable_engine(self) -> AsyncIterator[Engine]:
        engine = await hosting(self)
        yield engine
        await engine.aclose()


async def hosting(what: Hosted | type[Hosted]) -> HostedEngine:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ENGINES_TO_HOST)
        return await open_engine(what.model, opener=what.opener)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[HostedEngine]:
    assert request.cls is not None
    if request.cls.model.startswith("lab:"):
        pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")
    engine = await hosting(request.cls)
    yield engine
    await engine.aclose()


@pytest.mark.asyncio(loop_scope="class")
class TestAHostedBabbler(Hosted, EngineContract, TokenizesContract):
    is_repeatable = True
    stall_s = 0.1

    async def test_it_has_the_protocols_of_its_engine_only(self, engine: Engine) -> None:
        assert isinstance(engine, Tokenizes)
        assert not isinstance(engine, ScoresTokens | Embeds | GivesLogits | RewardsSteps)


@pytest.mark.asyncio(loop_scope="class")
class TestAHostedEngineThatTakesItsTime(TestAHostedBabbler):
    model = "scripted:babble,prefill_s=0.001,token_s=0.0001,jitter=0.5"


@pytest.mark.asyncio(loop_scope="class")
class TestAHostedBlackBox(Hosted, EngineContract):
    opener = "engines_to_host:black_box"
    is_repeatable = True
    stall_s = 0.1

    async def test_it_does_not_tokenize(self, engine: Engine) -> None:
        assert not isinstance(engine, Tokenizes)


@pytest.mark.asyncio(loop_scope="class")
class TestAHostedScorerAndEmbedder(Hosted, ScoresTokensContract, EmbedsContract):
    opener = "engines_to_host:scorer_and_embedder"


@pytest.mark.asyncio(loop_scope="class")
class TestHostedLogits(Hosted, GivesLogitsContract, TokenizesContract):
    opener = "engines_to_host:logits"


@pytest.mark.asyncio(loop_scope="class")
class TestAHostedJudge(Hosted, RewardsStepsContract):
    opener = "engines_to_host:judge"


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="class")
class TestAHostedModelOfTheLab(
    Hosted, EngineContract, TokenizesContract, ScoresTokensContract, EmbedsContract, GivesLogitsContract
):
    model = "lab:small"
    ask = "Use 2, 3, 7 to make 13."
    tolerance = 0.05  # as for the embedded engine: batches of different shapes


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="class")
class TestTheHostedRewardModelOfTheLab(Hosted, RewardsStepsContract):
    model = "lab:prm"
    steps = ("4+17=21\n\n", "3*21=2\n\n", "2-5=58\n\n", "The final answer is \\boxed{58}")
