"""Models in vLLM that write text: the asyncio face of generation, scoring and logits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.engine import (
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    LogitRow,
    ModelDescription,
    Prefilled,
    Prompt,
    TokenScores,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import InvalidRequest
from orchestrator.workers.vllm import failures, reading
from orchestrator.workers.vllm.asking import check
from orchestrator.workers.vllm.core import Core
from orchestrator.workers.vllm.engine import VllmEngine
from orchestrator.workers.vllm.generation import Generation
from orchestrator.workers.vllm.prompts import PromptReader


@dataclass(slots=True)
class _Live:
    """A request that is being served.

    Attributes:
        generation: Once its prompt is encoded.
        server: The task that runs it.
        is_cancelled: Perhaps before either was there.
    """

    generation: Generation | None = None
    server: asyncio.Task[None] | None = None
    is_cancelled: bool = False


class VllmGenerator(VllmEngine):
    """A model in vLLM that writes text; also scores given tokens and shows the distribution of the next one.

    Counts are exact: of the tokens that vLLM samples, those beyond a stop string, a monitor's cut or a cancellation
    (a step or two, since it does not wait for us) are neither delivered nor counted.

    A reader that falls behind is not run away from: its sample is aborted, and goes on from its ids when it reads
    again, mostly from the prefix cache. Samples with a schema or grammar are not, since vLLM could not go on within it.
    """

    def __init__(self, core: Core, prompts: PromptReader, *, description: ModelDescription, kv_cells: int) -> None:
        super().__init__(core, prompts, description=description, kv_cells=kv_cells)
        self._live: dict[str, _Live] = {}
        self._num_written = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Samples from a prompt; see `Engine.generate`.

        A request whose deadline passes ends as if cancelled, with the detail ``"deadline"``. One that is cut short
        before its prompt was read reports the whole of it, since how far vLLM was is not known.

        Raises:
            ContextOverflow: Prompt and one token do not fit.
            InvalidRequest: A field cannot be used: an id in use, a schema or grammar that is none, a bad token id.
            CapabilityMissing: The request needs what this engine lacks.
            EngineFailed: vLLM has died, or has no room for more (both retryable), or the engine was closed.
        """
        check_capabilities(request, self._description)
        check(request, most_logprobs=self._prompts.vocabulary.size)
        if request.request_id in self._live:
            raise InvalidRequest(
                f"request_id {request.request_id!r} is in use; give every live request its own",
                field="request_id",
                value=request.request_id,
            )
        live = self._live[request.request_id] = _Live()
        try:
            asked_at = asyncio.get_running_loop().time()
            await self._core.ready(within_s=request.deadline_s)
            if request.deadline_s is not None:
                waited_s = asyncio.get_running_loop().time() - asked_at
                request = replace(request, deadline_s=max(0.0, request.deadline_s - waited_s))
            prompt = await self._prompt_ids(request.prompt)
            self._require_room(len(prompt))
            self._core.require_room(len(request.samples))
            generation = live.generation = self._generation(request, prompt)
            # Not in a task group: it would end in the reader's task, which may leave this generator at any event.
            live.server = asyncio.create_task(generation.run(), name=f"vllm {request.request_id}")
            if live.is_cancelled:
                self.cancel(request.request_id)
            while (event := await generation.outbox.get()) is not None:
                self._count(event)
                yield event
        finally:
            del self._live[request.request_id]
            await self._end(live)

    def cancel(self, request_id: str) -> None:
        """Ends a request at once, with exact counts; unknown ids are ignored."""
        if (live := self._live.get(request_id)) is None:
            return
        live.is_cancelled = True
        if live.generation is not None and live.server is not None:
            live.generation.end(FinishReason.CANCELLED)
            live.server.cancel()

    async def health(self) -> EngineHealth:
        """Our counts, and what vLLM's scheduler says of its cache; `detail` tells why no request would be served."""
        shown = await super().health()
        generations = [live.generation for live in self._live.values() if live.generation is not None]
        written = self._num_written + sum(sample.output_tokens for own in generations for sample in own.samples)
        return replace(
            shown,
            live_sequences=shown.live_sequences + sum(own.num_live for own in generations),
            output_tokens=written,
        )

    async def aclose(self) -> None:
        """Ends live streams with `EngineFailed`, and vLLM with its processes; safe to call twice."""
        self._core.stop_serving()
        for live in tuple(self._live.values()):
            if live.generation is not None and live.server is not None:
                live.generation.outbox.close(failures.closed(self._description.name))
                live.server.cancel()
        await super().aclose()

    async def score_tokens(self, prompt: Prompt, token_ids: Sequence[int], *, tree_id: str = "") -> TokenScores:  # noqa: ARG002
        """Log probability of each of ``token_ids`` as the continuation of ``prompt``, in one pass."""
        await self._core.ready()
        given = tuple(token_ids)
        self._prompts.vocabulary.require_ids(given)
        ids = await self._prompt_ids(prompt)
        self._require_room(len(ids) + max(len(given) - 1, 0))
        if not given:
            return TokenScores((), 0)
        with self._reading():
            scores = await reading.score(self._core, ids, given, self._next_id("score"))
        self._count_read(scores.prompt_tokens, scores.cached_tokens)
        return scores

    async def logits(self, prompt: Prompt) -> LogitRow:
        """The whole row of log probabilities of the token after ``prompt``: its logits, less a constant."""
        await self._core.ready()
        ids = await self._prompt_ids(prompt)
        self._require_room(len(ids))
        with self._reading():
            row = await reading.next_token(self._core, ids, self._next_id("logits"))
        self._count_read(len(ids), row.cached_tokens)
        return row

    def _generation(self, request: GenerateRequest, prompt: Sequence[int]) -> Generation:
        try:
            return Generation(
                request,
                prompt,
                core=self._core,
                vocabulary=self._prompts.vocabulary,
                context_length=self._description.context_length,
                model=self._description.name,
            )
        except Exception as error:
            raise failures.of_request(error, model=self._description.name) from error

    def _count(self, event: GenerationEvent) -> None:
        if isinstance(event, Prefilled):
            self._count_read(event.prompt_tokens, event.cached_tokens)

    async def _end(self, live: _Live) -> None:
        if live.server is not None:
            live.server.cancel()
            await asyncio.wait([live.server])
        if live.generation is not None:
            self._num_written += sum(sample.output_tokens for sample in live.generation.samples)
