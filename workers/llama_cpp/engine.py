"""The asyncio face of the embedded engine: checks requests, hands them to the decode thread, and streams the replies.

One engine owns one model, one KV cache and one thread. Its process shares their fate: a server that must outlive an
abort in native code hosts the engine in a process of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Sequence

import numpy as np

from orchestrator.cost import TokenPrices
from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Capability,
    Embeddings,
    GenerateRequest,
    GenerationEvent,
    LogitRow,
    ModelDescription,
    Prompt,
    StepRewards,
    TokenScores,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import CapabilityMissing, ContextOverflow, InvalidRequest
from orchestrator.step_scores import STEP_DELIMITER, split_steps
from orchestrator.workers.llama_cpp.binding import ContextHandle
from orchestrator.workers.llama_cpp.embedding import MOST_TEXTS, EmbeddingChore
from orchestrator.workers.llama_cpp.generation import GenerationJob
from orchestrator.workers.llama_cpp.grammar import GrammarGuard, check_grammar, schema_to_grammar
from orchestrator.workers.llama_cpp.loop import DecodeLoop
from orchestrator.workers.llama_cpp.model import Model
from orchestrator.workers.llama_cpp.outbox import EventStream
from orchestrator.workers.llama_cpp.prefix_cache import PrefixCache
from orchestrator.workers.llama_cpp.work import Judging, Reading, ReadingJob, Scoring

_EMBEDDING_CELLS = 2048
_EMBEDDING_BATCH = 128
_INLINE_CHARS = 8192
"""Longer prompts are tokenised off the event loop (about 1 ms)."""


class LlamaCppEngine:
    """One model, run in this process; use `open_engine`.

    Implements `Engine`, `Tokenizes`, `ScoresTokens`, `Embeds`, `GivesLogits`, and for process reward models
    `RewardsSteps`.
    """

    def __init__(
        self,
        model: Model,
        context: ContextHandle,
        *,
        name: str,
        prices: TokenPrices,
        num_cells: int,
        num_threads: int,
        max_sequences: int,
        max_branches: int,
        idle_cells: int,
        is_deterministic: bool,
        shares_prefixes: bool,
    ) -> None:
        self._model = model
        self._context = context
        self._num_threads = num_threads
        self._embedder: ContextHandle | None = None
        self._jobs: dict[str, GenerationJob | None] = {}  # by live request id; None until the thread has it
        self._cancelled_early: set[str] = set()
        self._closing = threading.Lock()  # invariant: the native objects are freed once
        self._description = ModelDescription(
            name=name,
            engine="llama_cpp",
            context_length=min(model.trained_context, num_cells),
            cost=model.cost(prices),
            tokenizer=model.vocabulary.fingerprint,
            capabilities=frozenset(Capability),
        )
        self._step_tag = model.step_tag()
        self._num_cells = num_cells
        self._loop = DecodeLoop(
            context,
            PrefixCache(context, num_cells=num_cells, num_sequences=max_branches, max_idle_cells=idle_cells),
            model_name=name,
            max_live=max_sequences,
            is_deterministic=is_deterministic,
            shares_prefixes=shares_prefixes,
            on_exit=self._free_contexts,
        )
        self._mailbox = self._loop.mailbox
        self._loop.start()

    def describe(self) -> ModelDescription:
        """The model, from its GGUF header."""
        return self._description

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Samples from a prompt; see `Engine.generate`.

        A request cut short before its prompt was read reports in `Prefilled` how much of it was. A request whose
        deadline passes ends as if cancelled, with the detail ``"deadline"``.

        Raises:
            ContextOverflow: Prompt and one token do not fit.
            InvalidRequest: A field cannot be used: an id in use, a schema or grammar that is none, a bad token id.
            EngineFailed: The model stopped, or the engine was closed.
        """
        check_capabilities(request, self._description)
        self._check(request)
        self._jobs[request.request_id] = None
        job: GenerationJob | None = None
        try:
            prompt = await self._prompt_ids(request.prompt)
            self._require_room(len(prompt))
            stream = EventStream(
                len(request.samples), max_unread_tokens=request.max_unread_tokens, on_room=self._mailbox.wake
            )
            job = GenerationJob(
                request,
                prompt,
                stream=stream,
                vocabulary=self._model.vocabulary,
                model_name=self._description.name,
                context_length=self._description.context_length,
                guards=self._guards(request),
                kv_cells=self._loop.peak_cells,
                on_news=self._loop.news,
            )
            self._jobs[request.request_id] = job
            self._submit(job)
            if request.request_id in self._cancelled_early:
                self.cancel(request.request_id)
            while (event := await stream.next()) is not None:
                yield event
        finally:
            self._jobs.pop(request.request_id, None)
            self._cancelled_early.discard(request.request_id)
            if job is not None and not job.stream.is_closed:
                abandoned = job
                self._mailbox.submit(lambda: self._loop.abandon(abandoned))

    def cancel(self, request_id: str) -> None:
        """Ends a request within one decode step, with exact counts; unknown ids are ignored."""
        if request_id not in self._jobs:
            return
        job = self._jobs[request_id]
        if job is None:
            self._cancelled_early.add(request_id)
            return
        self._mailbox.submit(lambda: self._loop.cancel(job))

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Unpins the cached prefixes of a tree, except those on the way to ``keep``, as prompts and as judged steps."""
        prompts = list(keep)
        kept = [await self._prompt_ids(prompt) for prompt in prompts]
        if self._step_tag is not None:
            for prompt in prompts:
                judged = await self._prompt_ids(Prompt(prompt.messages))
                self._model.add_steps(judged, split_steps(prompt.continuation_text), self._step_tag)
                kept.append(judged)
        if self._loop.is_running:
            await self._mailbox.call(lambda: self._loop.cache.release(tree_id, keep=kept))

    async def health(self) -> EngineHealth:
        """Counters of the decode thread and the prefix cache."""
        counters, cache = self._loop.counters, self._loop.cache
        is_ready = self._loop.is_running
        return EngineHealth(
            is_ready=is_ready,
            detail="" if is_ready else self._loop.closed_error().message,
            live_sequences=counters.live_sequences,
            running_sequences=counters.live_sequences,
            waiting_sequences=counters.waiting_sequences,
            requests=counters.requests,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            output_tokens=counters.output_tokens,
            kv_cells=self._num_cells,
            resident_kv_cells=cache.used_cells,
            peak_kv_cells=cache.peak_cells,
            recomputed_tokens=counters.recomputed_tokens,
            preemptions=counters.preemptions,
            decode_steps=counters.decode_steps,
            tokens_per_s=counters.tokens_per_s(time.monotonic()),
        )

    async def aclose(self) -> None:
        """Ends live streams with `EngineFailed` and frees the model; safe to call twice."""
        await asyncio.to_thread(self._close)

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens the model reads for ``prompt``, template included."""
        return len(self._model.prompt_ids(prompt))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without special tokens."""
        return tuple(self._model.vocabulary.encode(text))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
        return self._model.vocabulary.decode(token_ids)

    async def score_tokens(self, prompt: Prompt, token_ids: Sequence[int], *, tree_id: str = "") -> TokenScores:
        """Log probability of each of ``token_ids`` as the continuation of ``prompt``, in one pass."""
        given = tuple(token_ids)
        self._model.vocabulary.require_ids(given)
        ids = await self._prompt_ids(prompt)
        self._require_room(len(ids) + max(len(given) - 1, 0))
        if not given:
            return TokenScores((), 0)
        job = ReadingJob(tree_id=tree_id)
        task = Scoring(job, ids, given)
        job.add(task)
        cached = await self._read(job)
        return TokenScores(tuple(task.logprobs), len(task.tokens), cached, task.recomputed_tokens)

    async def logits(self, prompt: Prompt) -> LogitRow:
        """Logits of the token after ``prompt``."""
        ids = await self._prompt_ids(prompt)
        self._require_room(len(ids))
        job = ReadingJob()
        task = Reading(job, ids)
        job.add(task)
        cached = await self._read(job)
        assert task.logits is not None
        return LogitRow(task.logits, len(ids), cached)

    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        """Rewards of steps by a model of the step-tag form (Math-Shepherd; Wang et al., 2024, arXiv:2312.08935).

        The model reads a tag after each step, unless the step ends with it already (a tag may be the delimiter); the
        reward is the probability of its good answer among the two, for the token after the tag's last one.
        """
        step_tag = self._step_tag
        if step_tag is None:
            raise CapabilityMissing(model=self._description.name, capability="rewards of steps")
        ids = await self._prompt_ids(prompt)
        tags = self._model.add_steps(ids, steps, step_tag)
        self._require_room(len(ids) - 1)
        if not tags[num_known:]:
            return StepRewards((), 0)
        job = ReadingJob(tree_id=tree_id)
        is_over = not steps[-1].endswith(STEP_DELIMITER)  # the reply ended in this step
        task = Judging(job, ids, tags=tags[num_known:], answers=(step_tag.good, step_tag.bad), is_over=is_over)
        job.add(task)
        cached = await self._read(job)
        return StepRewards(tuple(task.rewards), len(ids), cached, task.recomputed_tokens)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Mean of the final hidden states of each text, scaled to length 1.

        Raises:
            ContextOverflow: A text is longer than 2048 tokens.
        """
        if not texts:
            width: int = self._model.handle.api.llama_model_n_embd(self._model.handle.pointer)
            return Embeddings(np.zeros((0, width), np.float32), 0)
        vocabulary = self._model.vocabulary
        start = [vocabulary.bos] if vocabulary.adds_bos else []

        def encode() -> list[list[int]]:
            return [start + vocabulary.encode(text) or [min(vocabulary.end_ids, default=0)] for text in texts]

        self._require_running()
        encoded = encode() if sum(map(len, texts)) <= _INLINE_CHARS else await asyncio.to_thread(encode)
        longest = max(map(len, encoded))
        limit = min(_EMBEDDING_CELLS, self._model.trained_context)
        if longest > limit:
            raise ContextOverflow(model=self._description.name, prompt_tokens=longest, context_length=limit)
        chore = EmbeddingChore(
            encoded,
            open_context=self._open_embedder,
            model_name=self._description.name,
            on_read=self._loop.count_read,
        )
        if not self._mailbox.submit(lambda: self._loop.chores.add(chore)):
            raise self._loop.closed_error()
        vectors = await chore.done
        return Embeddings(vectors, sum(map(len, encoded)))

    async def check_integrity(self) -> None:
        """Compares the engine's books with llama.cpp's own; for tests and diagnosis.

        Raises:
            AssertionError: They disagree.
        """
        if self._loop.is_running:
            await self._mailbox.call(self._loop.check_integrity)

    # Requests.

    def _check(self, request: GenerateRequest) -> None:
        if request.request_id in self._jobs:
            raise InvalidRequest(
                f"request_id {request.request_id!r} is in use; give every live request its own",
                field="request_id",
                value=request.request_id,
            )
        if not request.samples:
            raise InvalidRequest("samples must name at least one sample", field="samples", value=())
        for spec in request.samples:
            if spec.max_tokens < 1:
                raise InvalidRequest("max_tokens must be at least 1", field="max_tokens", value=spec.max_tokens)
        if request.json_schema is not None and request.grammar is not None:
            raise InvalidRequest("give either json_schema or grammar, not both", field="grammar", value=request.grammar)
        require_range("max_unread_tokens", request.max_unread_tokens, 1, MAX_UNREAD_TOKENS)
        require_range("num_logprobs", request.num_logprobs, 0, self._model.vocabulary.size)

    def _guards(self, request: GenerateRequest) -> list[GrammarGuard | None]:
        if request.json_schema is not None:
            grammar, field = schema_to_grammar(request.json_schema), "json_schema"
        elif request.grammar is not None:
            grammar, field = request.grammar, "grammar"
            check_grammar(grammar, field=field)
        else:
            return [None] * len(request.samples)
        return [GrammarGuard(self._model, grammar, field=field) for _ in request.samples]

    async def _prompt_ids(self, prompt: Prompt) -> list[int]:
        self._require_running()
        size = sum(len(message.content) for message in prompt.messages) + len(prompt.continuation_text)
        if size <= _INLINE_CHARS:
            return self._model.prompt_ids(prompt)
        return await asyncio.to_thread(self._model.prompt_ids, prompt)

    def _require_room(self, prompt_tokens: int) -> None:
        limit = self._description.context_length
        if prompt_tokens + 1 > limit:
            raise ContextOverflow(model=self._description.name, prompt_tokens=prompt_tokens, context_length=limit)

    def _require_running(self) -> None:
        if not self._loop.is_running:
            raise self._loop.closed_error()

    def _submit(self, job: GenerationJob | ReadingJob) -> None:
        if not self._mailbox.submit(lambda: self._loop.add(job)):
            job.fail(self._loop.closed_error())
            raise self._loop.closed_error()

    async def _read(self, job: ReadingJob) -> int:
        self._submit(job)
        try:
            return await job.done
        finally:
            if job.done.cancelled():
                self._mailbox.submit(lambda: self._loop.abandon(job))

    # Native objects.

    def _open_embedder(self) -> ContextHandle:
        if self._embedder is None:
            self._embedder = ContextHandle(
                self._model.handle,
                name=self._description.name,
                num_cells=_EMBEDDING_CELLS,
                num_sequences=MOST_TEXTS,
                num_threads=self._num_threads,
                batch_tokens=_EMBEDDING_BATCH,
                max_outputs=_EMBEDDING_BATCH,
                is_embedding=True,
            )
        return self._embedder

    def _free_contexts(self) -> None:
        self._context.free()
        if self._embedder is not None:
            self._embedder.free()
            self._embedder = None

    def _close(self) -> None:
        with self._closing:
            self._loop.close()
            self._model.free()


def require_range(field: str, value: int, low: int, high: int) -> None:
    """Refuses a number out of range.

    Raises:
        InvalidRequest: Naming field, value and range.
    """
    if not low <= value <= high:
        raise InvalidRequest(f"{field} must be from {low} to {high}, not {value}", field=field, value=value)
