"""What all vLLM engines are, whatever their model does: vocabulary, counts, health, the end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from orchestrator.engine import ModelDescription, Prompt
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import ContextOverflow
from orchestrator.workers.vllm.core import Core
from orchestrator.workers.vllm.prompts import PromptReader
from orchestrator.workers.writes_nothing import WritesNothing

_INLINE_CHARS = 8192
"""Longer prompts are tokenised off the event loop (about 1 ms)."""


class VllmEngine(WritesNothing):
    """A model in vLLM that does not write text: pooling models. Made by `open_engine`.

    Args:
        core: vLLM.
        prompts: Reads prompts.
        description: The model.
        kv_cells: Tokens that the KV cache has room for.
    """

    def __init__(self, core: Core, prompts: PromptReader, *, description: ModelDescription, kv_cells: int) -> None:
        self._core = core
        self._prompts = prompts
        self._description = description
        self._kv_cells = kv_cells
        self._numbers = itertools.count()
        self._num_requests = self._num_read = self._num_cached = self._num_reading = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._description.name!r})"

    @property
    def core(self) -> Core:
        """The running vLLM, with the counters of its scheduler; for measurements and diagnosis."""
        return self._core

    def describe(self) -> ModelDescription:
        """The model and what can be done with it."""
        return self._description

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Does nothing: vLLM gives up the prefixes that were used longest ago when it needs their blocks."""

    async def health(self) -> EngineHealth:
        """Our counts, and what vLLM's scheduler says of its cache; `detail` tells why no request would be served."""
        counters, trouble = self._core.counters, self._core.trouble
        return EngineHealth(
            is_ready=not trouble,
            detail=trouble,
            live_sequences=self._num_reading,
            running_sequences=counters.running,
            waiting_sequences=counters.waiting,
            requests=self._num_requests,
            prompt_tokens=self._num_read,
            cached_prompt_tokens=self._num_cached,
            kv_cells=self._kv_cells,
            resident_kv_cells=round(counters.kv_usage * self._kv_cells),
            peak_kv_cells=round(counters.peak_kv_usage * self._kv_cells),
            prefix_query_tokens=counters.prefix_queries,
            prefix_hit_tokens=counters.prefix_hits,
            sampled_tokens=counters.generated_tokens,
            preemptions=counters.preemptions,
            drafts=counters.drafts,
            draft_tokens=counters.draft_tokens,
            accepted_tokens=counters.accepted_tokens,
            decode_steps=counters.steps,
            tokens_per_s=counters.tokens_per_s(time.monotonic()),
        )

    async def aclose(self) -> None:
        """Ends live streams with `EngineFailed`, and vLLM with its processes; safe to call twice."""
        await self._core.aclose()

    async def check_integrity(self) -> None:
        """Compares the books here with vLLM's; for tests and diagnosis.

        Raises:
            AssertionError: vLLM holds requests that nobody waits for.
        """
        if not self._core.trouble and not (await self.health()).live_sequences:
            assert not self._core.num_unfinished, f"vLLM holds {self._core.num_unfinished} requests"

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens the model reads for ``prompt``, template included."""
        return len(self._prompts.prompt_ids(prompt))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without special tokens."""
        return tuple(self._prompts.vocabulary.encode(text))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
        return self._prompts.vocabulary.decode(token_ids)

    # For those that build on it

    async def _prompt_ids(self, prompt: Prompt) -> list[int]:
        size = sum(len(message.content) for message in prompt.messages) + len(prompt.continuation_text)
        if size <= _INLINE_CHARS:
            return self._prompts.prompt_ids(prompt)
        return await asyncio.to_thread(self._prompts.prompt_ids, prompt)

    def _require_room(self, prompt_tokens: int, *, replies: int = 1) -> None:
        limit = self._description.context_length
        if prompt_tokens + replies > limit:
            raise ContextOverflow(model=self._description.name, prompt_tokens=prompt_tokens, context_length=limit)

    def _next_id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    def _count_read(self, prompt_tokens: int, cached_tokens: int) -> None:
        self._num_requests += 1
        self._num_read += prompt_tokens
        self._num_cached += cached_tokens

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What is read meanwhile counts as a live sequence."""
        self._num_reading += 1
        try:
            yield
        finally:
            self._num_reading -= 1
