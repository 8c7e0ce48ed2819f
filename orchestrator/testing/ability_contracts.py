"""What engines promise that implement more than `Engine`, as tests: one small suite for each protocol."""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from orchestrator.engine import (
    Capability,
    Embeds,
    Engine,
    GivesLogits,
    RewardsSteps,
    ScoresTokens,
    Span,
    Tokenizes,
)
from orchestrator.sampling import GREEDY
from orchestrator.testing.engine_contract import EngineSuite
from orchestrator.testing.transcript import Transcript

TEXTS = (
    "plain words",
    " leading space",
    "line\n\nline",
    "2 + 2 = 4.",
    "naïve café",
    "日本語 🎉",
    "",
    "a" * 300,
    "\tx = {y: [1]}",
)


class TokenizesContract(EngineSuite):
    """The promises of `Tokenizes`."""

    @pytest.mark.parametrize("text", TEXTS)
    async def test_text_survives_the_way_to_ids_and_back(self, engine: Engine, text: str) -> None:
        assert isinstance(engine, Tokenizes)
        ids = engine.tokenize(text)
        assert engine.detokenize(ids) == text
        assert engine.tokenize(text) == ids

    async def test_no_ids_are_no_text(self, engine: Engine) -> None:
        assert isinstance(engine, Tokenizes)
        assert engine.tokenize("") == ()
        assert engine.detokenize(()) == ""

    async def test_a_longer_prompt_has_more_tokens_and_a_continuation_counts_by_its_ids(self, engine: Engine) -> None:
        assert isinstance(engine, Tokenizes)
        bare = engine.count_prompt_tokens(self.prompt("word"))
        assert 0 < bare < engine.count_prompt_tokens(self.prompt("word " * 50))
        if Capability.CONTINUE in engine.describe().capabilities:
            ids = engine.tokenize(" so far so good")
            span = Span(" so far so good", ids, engine.describe().tokenizer)
            assert engine.count_prompt_tokens(self.prompt("word", span)) == bare + len(ids)


class ScoresTokensContract(EngineSuite):
    """The promises of `ScoresTokens`.

    Attributes:
        tolerance: By how much log probabilities of the same tokens may differ between two ways to compute them.
    """

    tolerance: ClassVar[float] = 1e-3

    async def test_every_token_gets_a_log_probability_and_the_reading_is_counted(self, engine: Engine) -> None:
        assert isinstance(engine, ScoresTokens)
        assert isinstance(engine, Tokenizes)
        ids = engine.tokenize(" one two three")
        scores = await engine.score_tokens(self.prompt(), ids)
        assert len(scores.logprobs) == len(ids)
        assert all(value <= 1e-6 for value in scores.logprobs)
        assert scores.prompt_tokens >= engine.count_prompt_tokens(self.prompt())
        assert 0 <= scores.cached_tokens <= scores.prompt_tokens

    async def test_no_tokens_get_no_scores(self, engine: Engine) -> None:
        assert isinstance(engine, ScoresTokens)
        assert (await engine.score_tokens(self.prompt(), ())).logprobs == ()

    async def test_the_same_tokens_get_the_same_scores(self, engine: Engine) -> None:
        assert isinstance(engine, ScoresTokens)
        assert isinstance(engine, Tokenizes)
        ids = engine.tokenize(" one two three")
        first, second = [await engine.score_tokens(self.prompt(), ids) for _ in range(2)]
        assert first.logprobs == pytest.approx(second.logprobs, abs=self.tolerance)

    async def test_what_was_generated_is_scored_as_it_was_when_it_was_generated(self, engine: Engine) -> None:
        assert isinstance(engine, ScoresTokens)
        self.need(engine, Capability.LOGPROBS)
        sample = (await Transcript.of(engine, self.request(6, sampling=GREEDY, num_logprobs=1))).only
        assert sample.token_ids is not None
        reported = [value for delta in sample.deltas for value in delta.logprobs or ()]
        scored = await engine.score_tokens(self.prompt(), sample.token_ids)
        assert list(scored.logprobs) == pytest.approx(reported, abs=self.tolerance)


class RewardsStepsContract(EngineSuite):
    """The promises of `RewardsSteps`.

    Attributes:
        steps: A reply that the model can judge.
        reward_tolerance: By how much rewards of the same steps may differ between two ways to compute them.
    """

    steps: ClassVar[tuple[str, ...]] = ("one\n\n", "two\n\n", "three")
    reward_tolerance: ClassVar[float] = 5e-3

    async def test_every_step_gets_a_reward_and_the_reading_is_counted(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        judged = await engine.reward_steps(self.prompt(), self.steps)
        assert len(judged.rewards) == len(self.steps)
        assert all(0 <= reward <= 1 for reward in judged.rewards)
        assert judged.prompt_tokens > 0
        assert 0 <= judged.cached_tokens <= judged.prompt_tokens

    async def test_no_steps_get_no_rewards(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        assert (await engine.reward_steps(self.prompt(), ())).rewards == ()
        assert (await engine.reward_steps(self.prompt(), self.steps, num_known=len(self.steps))).rewards == ()

    async def test_a_step_is_rewarded_alike_whatever_follows_it_and_whatever_was_known(self, engine: Engine) -> None:
        assert isinstance(engine, RewardsSteps)
        whole = (await engine.reward_steps(self.prompt(), self.steps)).rewards
        begun = (await engine.reward_steps(self.prompt(), self.steps[:2])).rewards
        rest = (await engine.reward_steps(self.prompt(), self.steps, num_known=2)).rewards
        assert [*begun, *rest] == pytest.approx(whole, abs=self.reward_tolerance)


class EmbedsContract(EngineSuite):
    """The promises of `Embeds`."""

    async def test_each_text_gets_a_unit_vector_of_the_same_size(self, engine: Engine) -> None:
        assert isinstance(engine, Embeds)
        embeddings = await engine.embed(["one text", "another, longer text about something else", "one text"])
        assert embeddings.vectors.dtype == np.float32
        assert embeddings.vectors.shape[0] == 3
        assert np.linalg.norm(embeddings.vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-4)
        assert embeddings.prompt_tokens > 0
        same, different = embeddings.vectors[0] @ embeddings.vectors[2], embeddings.vectors[0] @ embeddings.vectors[1]
        assert same == pytest.approx(1, abs=1e-3)
        assert different < 0.999

    async def test_no_texts_get_no_vectors(self, engine: Engine) -> None:
        assert isinstance(engine, Embeds)
        assert (await engine.embed([])).vectors.shape[0] == 0


class GivesLogitsContract(EngineSuite):
    """The promises of `GivesLogits`."""

    async def test_the_row_covers_the_vocabulary_and_its_top_is_what_greedy_decoding_says(self, engine: Engine) -> None:
        assert isinstance(engine, GivesLogits)
        row = await engine.logits(self.prompt())
        assert row.logits.dtype == np.float32
        assert row.logits.ndim == 1
        assert np.isfinite(row.logits.max())
        sample = (await Transcript.of(engine, self.request(1, sampling=GREEDY))).only
        if sample.token_ids:
            assert max(sample.token_ids) < row.logits.size
            assert row.logits[sample.token_ids[0]] == pytest.approx(row.logits.max(), abs=1e-2)
        assert row.prompt_tokens > 0
