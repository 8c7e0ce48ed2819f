"""The scripted engines keep the promises of the protocols they implement."""

from __future__ import annotations

import pytest

from orchestrator.engine import Capability, Embeds, Engine, GivesLogits, ScoresTokens, Tokenizes
from orchestrator.testing import Latency, ScriptedEngine, arithmetic, babble
from orchestrator.testing.ability_contracts import (
    EmbedsContract,
    GivesLogitsContract,
    RewardsStepsContract,
    ScoresTokensContract,
    TokenizesContract,
)
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.testing.scripted import ALL_CAPABILITIES
from orchestrator.testing.scripted_abilities import (
    BlackBox,
    ScriptedAll,
    ScriptedJudge,
    ScriptedLogits,
    ScriptedScorer,
)

MIXED = "Zwei, 日本語 🎉🎊 and\n\nmore: " + "one two three " * 40


class TestABabbler(EngineContract, TokenizesContract):
    is_repeatable = True
    patience_s = 2.0
    stall_s = 0.02

    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedEngine(babble())

    @pytest.fixture
    def disposable_engine(self) -> Engine:
        return ScriptedEngine(babble())


class TestAnEngineThatTakesItsTime(TestABabbler):
    @pytest.fixture
    def engine(self) -> Engine:
        latency = Latency(prefill_s=0.001, prefill_token_s=1e-6, token_s=1e-4, jitter=0.5)
        return ScriptedEngine(arithmetic(), latency=latency, tokens_per_delta=5)


class TestAnEngineThatSpeaksManyLanguages(TestABabbler):
    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedEngine([MIXED, MIXED[3:], "", "\n\n"], capabilities=frozenset(Capability) - {Capability.GRAMMAR})


class TestAnEngineThatCanDoAsLittleAsPossible(TestABabbler):
    is_repeatable = False

    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedEngine(babble(), capabilities=())


class TestABlackBox(EngineContract):
    is_repeatable = True
    patience_s = 2.0
    stall_s = 0.02

    @pytest.fixture
    def engine(self) -> Engine:
        capabilities = ALL_CAPABILITIES - {Capability.STRICT_COUNTS}
        return BlackBox(ScriptedEngine(babble(), capabilities=capabilities), is_estimated=True)

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine

    async def test_it_does_not_tokenize(self, engine: Engine) -> None:
        assert not isinstance(engine, Tokenizes)


class TestAllAbilities(ScoresTokensContract, EmbedsContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedAll(arithmetic())

    async def test_each_class_has_its_protocol_only(self) -> None:
        assert not isinstance(ScriptedEngine(""), ScoresTokens | Embeds | GivesLogits)
        assert isinstance(ScriptedScorer(""), ScoresTokens)


class TestLogits(GivesLogitsContract, TokenizesContract, EngineContract):
    is_repeatable = True
    patience_s = 2.0
    stall_s = 0.02

    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedLogits(MIXED)

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine


class TestAJudge(RewardsStepsContract):
    @pytest.fixture
    def engine(self) -> Engine:
        return ScriptedJudge(babble())
