"""A scripted engine that batches in real time: so many slots, and a step that takes so long whoever is in it.

It runs its steps one by one on the event loop and knows nothing of `orchestrator.planning`: what the simulation says of
it can be wrong.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.engine import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    ModelDescription,
    Prefilled,
    Prompt,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.testing import ScriptedEngine


@dataclass(slots=True, eq=False)
class _Row:
    """A sample: what it will say, token by token, and where that goes."""

    index: int
    said: deque[Delta | Finished]
    events: asyncio.Queue[GenerationEvent]
    prompt: _Reading
    num_tokens: int = 0
    is_cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Reading:
    """A prompt that is read in the step in which the first of its samples gets a slot."""

    prefilled: Prefilled
    is_read: bool = False


@dataclass(slots=True)
class _Live:
    rows: list[_Row] = field(default_factory=list)


class SlottedEngine:
    """Implements `Engine` and `Tokenizes`.

    Args:
        inner: Says something, one token a delta, without latency.
        slots: Samples that write at the same time; more wait, first come, first served.
        step_s: A step takes so long,
        prompt_token_s: and so much longer for each prompt token that is read in it.

    Attributes:
        num_steps: Steps so far.
        steps_s: What they took, with whatever kept the event loop from ending them in time.
    """

    def __init__(
        self, inner: ScriptedEngine, *, slots: int = 8, step_s: float = 0.05, prompt_token_s: float = 0.0
    ) -> None:
        self._inner = inner
        self._slots = slots
        self._step_s = step_s
        self._prompt_token_s = prompt_token_s
        self._waiting: deque[_Row] = deque()
        self._writing: list[_Row] = []
        self._live: dict[str, _Live] = {}
        self._steps: asyncio.Task[None] | None = None
        self.num_steps = 0
        self.steps_s = 0.0

    def describe(self) -> ModelDescription:
        """The inner one's."""
        return self._inner.describe()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """See `Engine.generate`."""
        said: list[deque[Delta | Finished]] = [deque() for _ in request.samples]
        prefilled = Prefilled(0)
        async for event in self._inner.generate(request):
            if isinstance(event, Prefilled):
                prefilled = event
            else:
                said[event.index].append(event)
        events: asyncio.Queue[GenerationEvent] = asyncio.Queue()
        reading = _Reading(prefilled)
        live = self._live[request.request_id] = _Live(
            [_Row(index, rows, events, reading) for index, rows in enumerate(said)]
        )
        self._waiting.extend(live.rows)
        if self._steps is None or self._steps.done():
            # Nobody awaits it: it ends by itself when there is nothing to do.
            self._steps = asyncio.get_running_loop().create_task(self._run())
        try:
            left = len(live.rows)
            while left:
                event = await events.get()
                left -= isinstance(event, Finished)
                yield event
        finally:
            self.cancel(request.request_id)
            del self._live[request.request_id]

    def cancel(self, request_id: str) -> None:
        """Ends a request with the step under way."""
        live = self._live.get(request_id)
        for row in live.rows if live is not None else ():
            row.is_cancelled = True

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Nothing is pinned."""

    async def health(self) -> EngineHealth:
        """The inner one's."""
        return await self._inner.health()

    async def aclose(self) -> None:
        """Closes the inner one."""
        await self._inner.aclose()

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """The inner one's."""
        return self._inner.count_prompt_tokens(prompt)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The inner one's."""
        return self._inner.tokenize(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The inner one's."""
        return self._inner.detokenize(token_ids)

    async def _run(self) -> None:
        """Steps, each begun when the last one has ended, until nobody writes or waits."""
        time = asyncio.get_running_loop().time
        begun = time()
        while self._writing or self._waiting:
            read = self._admit()
            await asyncio.sleep(self._step_s + self._prompt_token_s * read)
            self._write()
            ended = time()
            self.num_steps += 1
            self.steps_s += ended - begun
            begun = ended

    def _admit(self) -> int:
        """Fills free slots; the prompt tokens that are to be read."""
        read = 0
        while self._waiting and len(self._writing) < self._slots:
            row = self._waiting.popleft()
            if row.is_cancelled:
                row.events.put_nowait(Finished(row.index, FinishReason.CANCELLED, 0))
                continue
            if not row.prompt.is_read:
                row.prompt.is_read = True
                read += row.prompt.prefilled.prompt_tokens - row.prompt.prefilled.cached_tokens
                row.events.put_nowait(row.prompt.prefilled)
            self._writing.append(row)
        return read

    def _write(self) -> None:
        """One token for everyone."""
        writing, self._writing = self._writing, []
        for row in writing:
            if row.is_cancelled:
                row.events.put_nowait(Finished(row.index, FinishReason.CANCELLED, row.num_tokens))
                continue
            event = row.said.popleft()
            row.events.put_nowait(event)
            row.num_tokens += event.num_tokens if isinstance(event, Delta) else 0
            if row.said and isinstance(row.said[0], Finished):
                row.events.put_nowait(row.said.popleft())
            else:
                self._writing.append(row)
