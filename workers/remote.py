"""What engines that run elsewhere have in common on the caller's side: a class with exactly the protocols of the engine
behind it, and an answer to calls about the vocabulary, which block, even while nobody is there to ask.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from orchestrator.engine import (
    Embeddings,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    LogitRow,
    ModelDescription,
    Prefilled,
    Prompt,
    StepRewards,
    TokenScores,
)
from orchestrator.errors import EngineFailed
from orchestrator.workers.hosted.vocabulary import Remembered, prompt_size, split_prompt, upper_bound


class RemoteEngine:
    """An engine that runs elsewhere; subclasses say how it is reached.

    Args:
        description: The model.
        empty_prompt_tokens: What an empty message comes to; 0 if the engine does not tokenize.
    """

    def __init__(self, description: ModelDescription, *, empty_prompt_tokens: int) -> None:
        self._description = description
        self._empty_prompt_tokens = empty_prompt_tokens
        self._remembered = Remembered()

    def describe(self) -> ModelDescription:
        """The model, as its engine describes it."""
        return self._description

    async def _called(self, name: str, *arguments: object, **named: object) -> Any:  # Any: what the method returns
        """Calls a method of the engine."""
        raise NotImplementedError

    def _asked(self, name: str, argument: object) -> Any:  # Any: what the method returns
        """Calls a method about the vocabulary, and blocks for a moment.

        Raises:
            EngineFailed: Nobody is there, or is too slow.
        """
        raise NotImplementedError


def unserved(request: GenerateRequest, *, is_cancelled: bool) -> list[GenerationEvent]:
    """The stream of a request that was cancelled, or whose deadline passed, before an engine began with it."""
    detail = None if is_cancelled else "deadline"
    endings = [Finished(index, FinishReason.CANCELLED, 0, detail) for index in range(len(request.samples))]
    return [Prefilled(0), *endings]


class _Tokenizes(RemoteEngine):
    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens the model reads for ``prompt``; an upper bound while its engine is away or too slow."""
        head, num_known = split_prompt(prompt, self._description.tokenizer)
        count: int | None = self._remembered.get(head)
        if count is None:
            try:
                count = int(self._asked("count_prompt_tokens", head))
            except EngineFailed:
                return num_known + upper_bound(head, empty_prompt_tokens=self._empty_prompt_tokens)
            self._remembered.keep(head, count, prompt_size(head))
        return count + num_known

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without special tokens.

        Raises:
            EngineFailed: The engine is away or too slow.
        """
        ids: tuple[int, ...] | None = self._remembered.get(text)
        if ids is None:
            ids = tuple(self._asked("tokenize", text))
            self._remembered.keep(text, ids, len(text))
        return ids

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            EngineFailed: The engine is away or too slow.
        """
        ids = tuple(token_ids)
        text: str | None = self._remembered.get(ids)
        if text is None:
            text = str(self._asked("detokenize", ids))
            self._remembered.keep(ids, text, len(ids))
        return text


class _ScoresTokens(RemoteEngine):
    async def score_tokens(self, prompt: Prompt, token_ids: Sequence[int], *, tree_id: str = "") -> TokenScores:
        """Log probability of each of ``token_ids`` as the continuation of ``prompt``."""
        scores: TokenScores = await self._called("score_tokens", prompt, tuple(token_ids), tree_id=tree_id)
        return scores


class _Embeds(RemoteEngine):
    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """One L2-normalised vector per text."""
        embeddings: Embeddings = await self._called("embed", tuple(texts))
        return embeddings


class _GivesLogits(RemoteEngine):
    async def logits(self, prompt: Prompt) -> LogitRow:
        """Logits of the token after ``prompt``."""
        row: LogitRow = await self._called("logits", prompt)
        return row


class _RewardsSteps(RemoteEngine):
    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        """Rewards of ``steps[num_known:]``."""
        rewards: StepRewards = await self._called(
            "reward_steps", prompt, tuple(steps), num_known=num_known, tree_id=tree_id
        )
        return rewards


_BY_ABILITY: dict[str, type[RemoteEngine]] = {
    "Embeds": _Embeds,
    "GivesLogits": _GivesLogits,
    "RewardsSteps": _RewardsSteps,
    "ScoresTokens": _ScoresTokens,
    "Tokenizes": _Tokenizes,
}


@functools.cache
def with_abilities(base: type[RemoteEngine], abilities: frozenset[str]) -> Any:  # Any: a subclass of `base`
    """The class with exactly these protocols beside `Engine`; a capability is the protocol an engine implements."""
    if not abilities:
        return base
    bases = (*(_BY_ABILITY[name] for name in sorted(abilities)), base)
    return type(base.__name__, bases, {"__doc__": base.__doc__, "__module__": base.__module__})
