"""Scripted engines that can do more, or less, than `ScriptedEngine`, one small class per protocol."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from orchestrator.engine import (
    Delta,
    Embeddings,
    Engine,
    Finished,
    GenerateRequest,
    GenerationEvent,
    LogitRow,
    Message,
    ModelDescription,
    Prompt,
    Span,
    StepRewards,
    TokenAlternatives,
    Tokenizes,
    TokenScores,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.testing.scripted import ScriptedEngine
from orchestrator.testing.scripted_sample import pseudo_logprob
from orchestrator.testing.scripts import ScriptLike, share
from orchestrator.testing.transcript import close_stream
from orchestrator.testing.vocabulary import ByteVocabulary

LogprobRule = Callable[[Prompt, int, int], float]
"""(prompt, token id, position in the reply) -> natural log probability."""


def _pseudo(_prompt: Prompt, token_id: int, position: int) -> float:
    return pseudo_logprob(token_id, position)


class ScriptedScorer(ScriptedEngine):
    """Implements `ScoresTokens` too; its values are those `generate` reports for the same tokens at the same place,
    unless a `Reply` says otherwise there.

    Attributes:
        logprob_rule: Assign another one for other values.
    """

    logprob_rule: LogprobRule = staticmethod(_pseudo)

    async def score_tokens(
        self,
        prompt: Prompt,
        token_ids: Sequence[int],
        *,
        tree_id: str = "",  # noqa: ARG002  # nothing is evicted
    ) -> TokenScores:
        """Log probability of each of ``token_ids`` as the continuation of ``prompt``."""
        read = await self.read_prompt(prompt, num_more_tokens=len(token_ids))
        start = len(self._spoken.continuation(prompt).ids)
        logprobs = (self.logprob_rule(prompt, token, place) for place, token in enumerate(token_ids, start=start))
        return TokenScores(tuple(logprobs), read.prompt_tokens, read.cached_tokens)


RewardRule = Callable[[Prompt, str], float]
"""(conversation, everything up to and including a step) -> its reward in [0, 1]."""


def _pseudo_reward(_prompt: Prompt, text: str) -> float:
    return share(0, "reward", text)


class ScriptedJudge(ScriptedEngine):
    """Implements `RewardsSteps` too; a reward is a number drawn from the text so far.

    Attributes:
        reward_rule: Assign another one for other values.
        judged: The texts that were rewarded, in order.
    """

    reward_rule: RewardRule = staticmethod(_pseudo_reward)

    def __init__(self, *args: Any, **options: Any) -> None:  # Any: as for `ScriptedEngine`
        super().__init__(*args, **options)
        self.judged: list[str] = []

    async def reward_steps(
        self,
        prompt: Prompt,
        steps: Sequence[str],
        *,
        num_known: int = 0,
        tree_id: str = "",  # noqa: ARG002  # nothing is evicted
    ) -> StepRewards:
        """Rewards of ``steps[num_known:]``."""
        whole = Prompt(prompt.messages, (Span("".join(steps)),))
        read = await self.read_prompt(whole, num_more_tokens=len(steps))
        texts = ["".join(steps[: end + 1]) for end in range(num_known, len(steps))]
        self.judged += texts
        rewards = tuple(self.reward_rule(prompt, text) for text in texts)
        return StepRewards(rewards, read.prompt_tokens, read.cached_tokens)


def bags_of_words(texts: Sequence[str], dimension: int = 64) -> npt.NDArray[np.float32]:
    """A unit vector of hashed words for each text, so that texts that share words are near each other."""
    vectors = np.zeros((len(texts), dimension), dtype=np.float32)
    for row, text in enumerate(texts):
        vectors[row, 0] = 1e-3  # a text without words has a direction too
        for word in re.findall(r"\w+", text.lower()):
            vectors[row, int(share(0, word) * dimension)] += 1 if share(1, word) < 0.5 else -1
        vectors[row] /= np.linalg.norm(vectors[row])
    return vectors


class ScriptedEmbedder(ScriptedEngine):
    """Implements `Embeds` too; see `bags_of_words`."""

    dimension: ClassVar[int] = 64

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """One unit vector per text."""
        num_tokens = sum([(await self.read_prompt(_as_prompt(text))).prompt_tokens for text in texts])
        return Embeddings(bags_of_words(texts, self.dimension), num_tokens)


class ScriptedLogits(ScriptedEngine):
    """Implements `GivesLogits` too, over bytes: the script's next byte is by far the likeliest.

    Args:
        script: What it says.
        name: As the fleet calls it.
        context_length: In bytes of prompt and reply together.
    """

    def __init__(self, script: ScriptLike, *, name: str = "scripted", context_length: int = 32768) -> None:
        super().__init__(script, name=name, context_length=context_length, vocabulary=ByteVocabulary())

    async def logits(self, prompt: Prompt) -> LogitRow:
        """Logits of the byte after ``prompt``; float32 of shape [257]."""
        read = await self.read_prompt(prompt)
        coming = self._reply_tokens(prompt, seed=0, limit=1).pieces.ids
        place = len(self._spoken.continuation(prompt).ids)
        logits = np.array([pseudo_logprob(token, place) for token in range(ByteVocabulary.size)], dtype=np.float32)
        logits[coming[0] if coming else ByteVocabulary.end_id] = 8.0
        return LogitRow(logits, read.prompt_tokens, read.cached_tokens)


class BlackBox:
    """An engine behind a server that tells no token ids and has no tokenizer; implements `Engine` only.

    Args:
        engine: Who does the work; closed with this one.
        is_estimated: Whether counts are this side's own.
    """

    def __init__(self, engine: Engine, *, is_estimated: bool = False) -> None:
        self._engine = engine
        self._is_estimated = is_estimated

    def describe(self) -> ModelDescription:
        """Without a vocabulary."""
        return replace(self._engine.describe(), tokenizer=None)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """The engine's events without ids; alternatives are texts where the engine can tell."""
        stream = self._engine.generate(request)
        try:
            async for event in stream:
                if isinstance(event, Delta):
                    event = replace(event, token_ids=None, alternatives=self._as_texts(event.alternatives))
                elif isinstance(event, Finished) and self._is_estimated:
                    event = replace(event, is_estimated=True)
                yield event
        finally:
            await close_stream(stream)

    def cancel(self, request_id: str) -> None:
        """Ends a request."""
        self._engine.cancel(request_id)

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Passed on."""
        await self._engine.release(tree_id, keep=keep)

    async def health(self) -> EngineHealth:
        """The engine's."""
        return await self._engine.health()

    async def aclose(self) -> None:
        """Closes the engine."""
        await self._engine.aclose()

    def _as_texts(self, alternatives: tuple[TokenAlternatives, ...] | None) -> tuple[TokenAlternatives, ...] | None:
        if alternatives is None or not isinstance(self._engine, Tokenizes):
            return alternatives
        decode = self._engine.detokenize
        return tuple(
            replace(row, tokens=tuple(decode([token]) if isinstance(token, int) else token for token in row.tokens))
            for row in alternatives
        )


def _as_prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),))


class ScriptedAll(ScriptedScorer, ScriptedEmbedder):
    """Generates, scores given tokens and embeds."""
