"""A scripted engine whose time is the simulated fleet's: real policies under the real controller meet its queues.

What is said, and how long it is, is the script's; when it comes is up to the replicas. Tokens of a sample are delivered
when it has ended, or as many as there were when it was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b

from orchestrator.engine import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    ModelDescription,
    Prefilled,
    Prompt,
    Span,
    StepRewards,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed
from orchestrator.planning.simulation.recording import Recorder, Reply
from orchestrator.planning.simulation.system import System
from orchestrator.planning.simulation.work import Call, Prefix
from orchestrator.planning.simulation.work import Sequence as SequenceWork
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.scripted_abilities import ScriptedJudge


class SimulatedEngine:
    """Implements `Engine`, `Tokenizes` and `RewardsSteps` on one pool of a simulated system.

    Args:
        inner: What says something; without latency.
        system: The fleet.
        role: Which model of it; names the engine, too.
        recorder: Is told of every call, if there is one.
    """

    def __init__(self, inner: ScriptedJudge, system: System, *, role: str, recorder: Recorder) -> None:
        self._inner: ScriptedEngine = inner
        self._judge = inner
        self._system = system
        self._role = role
        self._pool = system.pools[system.spec.pool_of(role)]
        self._recorder = recorder
        self._costs = system.spec.controllers
        self._live: dict[str, Call] = {}

    def describe(self) -> ModelDescription:
        """The script's model, under the role's name."""
        return replace(self._inner.describe(), name=self._role)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """See `Engine.generate`; samples arrive whole.

        Raises:
            EngineFailed: The fleet refused the call: its queue is full, or the prompt can never fit.
        """
        said = await self._said(request)
        tree_id = request.tree_id
        reply = self._reply(tree_id, request.prompt)
        ended: asyncio.Queue[SequenceWork] = asyncio.Queue()
        call = self._call(tree_id, reply.prefix, ended)
        texts = [said.text(index) for index in range(len(request.samples))]
        for index, text in enumerate(texts):
            keep = self._recorder.next_piece(tree_id, reply.prefix[-1][0], text)
            call.add(said.finished[index].output_tokens, keep)
        self._recorder.called(tree_id, self._role, reply, call, texts)
        self._live[request.request_id] = call
        self._submit(call)
        try:
            for turn in range(len(call.sequences)):
                sequence = await ended.get()
                if call.is_refused:
                    raise EngineFailed("the simulated fleet is full", model=self._role, is_retryable=False)
                if not turn:
                    yield Prefilled(said.prompt_tokens, max(call.cached_tokens, 0))
                for event in said.events(sequence, self._inner):
                    yield event
        finally:
            del self._live[request.request_id]
            self._cancel(call)

    def cancel(self, request_id: str) -> None:
        """Ends a request within a step."""
        call = self._live.get(request_id)
        if call is not None:
            self._cancel(call)

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Nothing is pinned: the caches give up what is not used when they need room."""

    async def health(self) -> EngineHealth:
        """The script's."""
        return await self._inner.health()

    async def aclose(self) -> None:
        """Closes the script."""
        await self._inner.aclose()

    # Tokenizes

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """The script's."""
        return self._inner.count_prompt_tokens(prompt)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The script's."""
        return self._inner.tokenize(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The script's."""
        return self._inner.detokenize(token_ids)

    # RewardsSteps

    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        """Reads the solution on the fleet; rewards are the script's."""
        rewards = await self._judge.reward_steps(prompt, steps, num_known=num_known, tree_id=tree_id)
        reply = self._reply(tree_id, Prompt(prompt.messages, tuple(map(Span, steps))))
        ended: asyncio.Queue[SequenceWork] = asyncio.Queue()
        call = self._call(tree_id, reply.prefix, ended)
        call.add(0)
        self._recorder.called(tree_id, self._role, reply, call, ())
        self._submit(call)
        try:
            await ended.get()
        finally:
            self._cancel(call)
        if call.is_refused:
            raise EngineFailed("the simulated fleet is full", model=self._role, is_retryable=False)
        return replace(rewards, cached_tokens=max(call.cached_tokens, 0))

    # Inside

    def _call(self, tree_id: str, prefix: Prefix, ended: asyncio.Queue[SequenceWork]) -> Call:
        """A call whose sequences come out of the queue when its controller has taken them in."""
        system, recorder = self._system, self._recorder
        tree = recorder.tree(tree_id)

        def take_in(sequence: SequenceWork) -> None:
            recorder.ended(tree_id)
            if not sequence.call.is_refused:
                system.measured.sequence(sequence, sequence.call.asked_s)
            ended.put_nowait(sequence)

        def on_sequence(sequence: SequenceWork) -> None:
            system.controllers.work(self._controller(tree), self._costs.sequence_s, partial(take_in, sequence))

        return Call(self._pool.name, tree, prefix, on_sequence)

    def _submit(self, call: Call) -> None:
        work = self._system.controllers.work
        work(self._controller(call.tree), self._costs.call_s, partial(self._pool.submit, call))

    def _controller(self, tree: int) -> int:
        return tree % self._costs.num_controllers

    def _cancel(self, call: Call) -> None:
        for sequence in call.sequences:
            if not sequence.has_ended and not sequence.is_cancelled:
                self._pool.cancel(sequence)

    def _reply(self, tree_id: str, prompt: Prompt) -> Reply:
        digest = blake2b(digest_size=16)
        for message in prompt.messages:
            digest.update(f"{message.role}\0{message.content}\0".encode("utf-8", "replace"))
        num_tokens = self._inner.count_prompt_tokens(Prompt(prompt.messages))
        spans = [
            (span.text, len(self._inner.tokenize(span.text) if span.token_ids is None else span.token_ids))
            for span in prompt.continuation
        ]
        return self._recorder.reply(tree_id, digest.digest(), num_tokens, spans)

    async def _said(self, request: GenerateRequest) -> _Said:
        said = _Said(len(request.samples))
        async for event in self._inner.generate(request):
            said.add(event)
        return said


class _Said:
    """All events of a request, by sample."""

    def __init__(self, num_samples: int) -> None:
        self.prompt_tokens = 0
        self.finished: dict[int, Finished] = {}
        self._deltas: list[list[Delta]] = [[] for _ in range(num_samples)]

    def add(self, event: GenerationEvent) -> None:
        """One more."""
        if isinstance(event, Prefilled):
            self.prompt_tokens = event.prompt_tokens
        elif isinstance(event, Finished):
            self.finished[event.index] = event
        else:
            self._deltas[event.index].append(event)

    def text(self, index: int) -> str:
        """Of a whole sample."""
        return "".join(delta.text for delta in self._deltas[index])

    def events(self, sequence: SequenceWork, engine: ScriptedEngine) -> Iterable[Delta | Finished]:
        """Those of a sample that has ended; of a cancelled one, as many tokens as it had by then."""
        whole, left = self.finished[sequence.index], sequence.num_written
        if not sequence.is_cancelled or left >= whole.output_tokens:
            yield from self._deltas[sequence.index]
            yield replace(whole, recomputed_tokens=sequence.recomputed_tokens)
            return
        for delta in self._deltas[sequence.index]:
            if left <= 0:
                break
            yield delta if delta.num_tokens <= left else _cut(delta, left, engine)
            left -= delta.num_tokens
        yield Finished(sequence.index, FinishReason.CANCELLED, sequence.num_written)


def _cut(delta: Delta, num_tokens: int, engine: ScriptedEngine) -> Delta:
    ids = (delta.token_ids or ())[:num_tokens]
    logprobs = delta.logprobs[:num_tokens] if delta.logprobs is not None else None
    others = delta.alternatives[:num_tokens] if delta.alternatives is not None else None
    return Delta(delta.index, engine.detokenize(ids), num_tokens, ids, logprobs, others)
