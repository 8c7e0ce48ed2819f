"""A replayed pool keeps the promises of an engine, on the conversations that it holds."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.bench.problems import Problem
from orchestrator.bench.recorded.engine import PoolEngine
from orchestrator.bench.recorded.pool import Pool, read_pool
from orchestrator.bench.recorded.recording import record
from orchestrator.engine import Engine, Message
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling
from orchestrator.testing import ScriptedEngine, babble
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.testing.transcript import Transcript

SAMPLING = Sampling(temperature=0.8)
ODD = ["", " ", "\0", "日本語のテキスト 🎉 é\u0301 \u202e", "<|im_end|></s>[INST]{{x}}{% y %}"]


class Asked:
    """All that the suite asks."""

    name = "contract"
    answer_kind = "text"
    max_sample_tokens = 2000
    problems = tuple(
        Problem(str(number), text, (Message("user", text),))
        for number, text in enumerate(
            [
                EngineContract.ask,
                *(f"{EngineContract.ask} Begin with {word}." for word in ("one", "ninety", "seven")),
                *ODD,
            ]
        )
    )

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        return False


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    path = tmp_path_factory.mktemp("pool") / "contract"
    engine = ScriptedEngine(babble())
    asyncio.run(record(engine, Asked(), num_samples=3, sampling=SAMPLING, seed=1, path=path))
    return read_pool(path)


class TestAPool(EngineContract):
    is_repeatable = False  # a tree that asks the same again gets other samples
    patience_s = 2.0
    stall_s = 0.02

    @pytest.fixture
    def engine(self, pool: Pool) -> Engine:
        return PoolEngine(pool)

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine

    async def test_greedy_samples_and_equal_seeds_repeat_themselves(self, engine: Engine) -> None:
        """In trees of their own, and at the recorded temperature only."""
        one, two = [await Transcript.of(engine, self.request(30, sampling=SAMPLING)) for _ in range(2)]
        assert one.only.text == two.only.text

    async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await Transcript.of(engine, self.request(4, prompt=self.prompt("so many words " * 10_000)))
        assert caught.value.field == "messages", "it was not recorded"

    async def test_a_prompt_of_200_kilobytes_is_read_or_refused_and_blocks_no_one(self, engine: Engine) -> None:
        with pytest.raises(InvalidRequest):
            await Transcript.of(engine, self.request(1, prompt=self.prompt("lorem ipsum " * 17_000)))
        assert (await Transcript.of(engine, self.request(1))).num_tokens == 1
