"""Process reward models and embedders in vLLM: their contracts, and the numbers of other implementations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.engine import Embeds, Engine, Message, Prompt, RewardsSteps, Tokenizes
from orchestrator.errors import CapabilityMissing, ContextOverflow
from orchestrator.testing.ability_contracts import EmbedsContract, RewardsStepsContract
from orchestrator.testing.transcript import Transcript
from orchestrator.workers.vllm.engine import VllmEngine

pytest.importorskip("vllm", reason="vLLM is not installed")

from .asked import asked
from .checkpoints import STEP_TAG, random_embedder, random_reward_model
from .conftest import BLOCK, OpenEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

PROBLEM = Prompt((Message("user", "Compute: 3*(4+17)-5 mod 61"),))
STEPS = ("4+17=21\n\n", "3*21=2\n\n", "2-5=58\n\n", "The final answer is \\boxed{58}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def classifier(open_one: OpenEngine, models: Path) -> VllmEngine:
    return await open_one(random_reward_model(models / "classifier"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answerer(open_one: OpenEngine) -> VllmEngine:
    return await open_one(WEIGHTS / "prm", step_tag="\n\n", step_good="+", step_bad="-")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedder(open_one: OpenEngine, models: Path) -> VllmEngine:
    return await open_one(random_embedder(models / "embedder"), runner="pooling")


class TestAClassifier(RewardsStepsContract):
    """Qwen2.5-Math-PRM's form with random weights."""

    steps = STEPS

    @pytest_asyncio.fixture(loop_scope="module")
    async def engine(self, classifier: VllmEngine) -> AsyncIterator[Engine]:
        yield classifier
        await classifier.check_integrity()

    async def test_it_judges_and_does_nothing_else(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        assert isinstance(engine, Tokenizes)
        assert not isinstance(engine, Embeds)
        with pytest.raises(CapabilityMissing, match="generating text"):
            await Transcript.of(engine, asked(1))

    async def test_its_rewards_are_those_of_a_plain_forward_pass(
        self, classifier: VllmEngine, engine: Engine, models: Path
    ) -> None:
        assert isinstance(engine, RewardsSteps)
        judged = await engine.reward_steps(PROBLEM, STEPS)
        ids = list(classifier.tokenize("x") and classifier._prompts.prompt_ids(PROBLEM))
        (tag,) = classifier._prompts.vocabulary.encode(STEP_TAG, parses_special=True)
        for step in STEPS:
            ids += [*classifier.tokenize(step.strip()), tag]
        assert judged.prompt_tokens == len(ids)
        expected = plain_rewards(models / "classifier", ids, tag)
        assert list(judged.rewards) == pytest.approx(expected, abs=1e-4)
        assert max(expected) - min(expected) > 0.01, "the steps can be told apart"

    async def test_a_step_that_spells_the_tag_earns_no_reward_of_its_own(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        judged = await engine.reward_steps(PROBLEM, (f"4+17={STEP_TAG}21", "3*21=2"))
        assert len(judged.rewards) == 2

    async def test_what_does_not_fit_is_refused(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        with pytest.raises(ContextOverflow) as caught:
            await engine.reward_steps(PROBLEM, ("1+1=2 " * 600,))
        assert caught.value.context_length == 512


def plain_rewards(folder: Path, ids: Sequence[int], tag: int) -> list[float]:
    """P(good) at each tag by transformers and two matrix products."""
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen2Config, Qwen2Model

    weights = load_file(folder / "model.safetensors")
    model = Qwen2Model(Qwen2Config(**json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    own = {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}
    model.load_state_dict(own)
    with torch.no_grad():
        hidden = model.eval()(torch.tensor([list(ids)])).last_hidden_state[0]
        hidden = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
        classes = torch.softmax(hidden @ weights["score.2.weight"].T + weights["score.2.bias"], dim=-1)
    return [float(classes[place, 1]) for place, token in enumerate(ids) if token == tag]


class TestAnAnswerer(RewardsStepsContract):
    """The lab's reward model, which answers a blank line with + or -."""

    steps = STEPS

    @pytest_asyncio.fixture(loop_scope="module")
    async def engine(self, answerer: VllmEngine) -> AsyncIterator[Engine]:
        yield answerer
        await answerer.check_integrity()

    async def test_its_rewards_are_those_of_the_embedded_engine(self, engine: Engine) -> None:
        pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")
        from orchestrator.bench.lab.opening import open_lab
        from orchestrator.config import Settings

        assert isinstance(engine, RewardsSteps)
        embedded = await open_lab("prm", Settings())
        try:
            for steps in (STEPS, ("4+17=21\n\n", "3*21=3\n\n"), ("4+17=20\n\n",)):
                expected = await embedded.reward_steps(PROBLEM, steps)  # type: ignore[attr-defined]
                judged = await engine.reward_steps(PROBLEM, steps)
                assert judged.rewards == pytest.approx(expected.rewards, abs=0.02)
        finally:
            await embedded.aclose()

    async def test_steps_that_were_judged_before_come_from_the_cache(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        await engine.reward_steps(PROBLEM, STEPS[:3])
        judged = await engine.reward_steps(PROBLEM, STEPS, num_known=3)
        assert len(judged.rewards) == 1
        assert judged.cached_tokens >= BLOCK


class TestAnEmbedder(EmbedsContract):
    @pytest_asyncio.fixture(loop_scope="module")
    async def engine(self, embedder: VllmEngine) -> AsyncIterator[Engine]:
        yield embedder
        await embedder.check_integrity()

    async def test_a_text_that_is_too_long_is_refused(self, engine: Engine) -> None:
        assert isinstance(engine, Embeds)
        with pytest.raises(ContextOverflow):
            await engine.embed(["fine", "long " * 600])
