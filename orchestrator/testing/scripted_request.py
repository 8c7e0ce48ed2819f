"""One request being served by a scripted engine: whose turn it is, how long that takes, and what goes wrong."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.clock import Clock
from orchestrator.engine import GenerationEvent
from orchestrator.errors import EngineFailed
from orchestrator.testing.faults import Fault, FaultKind
from orchestrator.testing.scripted_sample import ScriptedSample
from orchestrator.testing.scripts import share

_FOREVER_S = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a scripted engine pretends to take.

    Attributes:
        prefill_s: Before the first event.
        prefill_token_s: And this much for each prompt token that is not cached.
        token_s: For each token of a sample; samples run side by side.
        jitter: Samples are faster or slower by up to this share, drawn by their seeds. In [0, 1).
    """

    prefill_s: float = 0.0
    prefill_token_s: float = 0.0
    token_s: float = 0.0
    jitter: float = 0.0


NO_LATENCY = Latency()


class LiveRequest:
    """A request being served.

    Args:
        model: The engine's name, for errors.
        latency: How long things take.
        clock: Waits.
        tokens_per_delta: Most tokens in a `Delta`.
        fault: What goes wrong.

    Attributes:
        samples: Filled when the prompt has been read.
        decode_steps: Rounds over the samples.
    """

    def __init__(
        self, *, model: str, latency: Latency, clock: Clock, tokens_per_delta: int, fault: Fault | None
    ) -> None:
        self.samples: list[ScriptedSample] = []
        self.decode_steps = 0
        self._model = model
        self._latency = latency
        self._clock = clock
        self._tokens_per_delta = tokens_per_delta
        self._fault = fault
        self._breaks = fault is not None and fault.kind in {FaultKind.FAIL, FaultKind.HANG}
        self._slowness = fault.factor if fault is not None and fault.kind is FaultKind.SLOW else 1.0
        self._is_cancelled = False
        self._is_closed = False
        self._sleeper: asyncio.Task[None] | None = None
        self._token_s: list[float] = []
        self._due: list[tuple[float, int, int]] = []  # heap of (ready_s, turn, sample)
        self._now_s = 0.0
        self._turn = -1
        self._delivered_tokens = 0

    def cancel(self) -> None:
        """The samples end here."""
        self._is_cancelled = True
        self._wake()

    def close(self) -> None:
        """The engine is gone: the reader gets `EngineFailed`."""
        self._is_closed = True
        self._wake()

    async def prefill(self, unread_tokens: int) -> None:
        """Takes the time of reading the prompt, and fails if that was planned."""
        await self._break_if_due()
        await self._pause((self._latency.prefill_s + self._latency.prefill_token_s * unread_tokens) * self._slowness)

    def begin(self, samples: Sequence[ScriptedSample]) -> None:
        """The samples to decode."""
        self.samples = list(samples)
        self._token_s = [self._latency.token_s * self._slowness * self._jitter(sample.seed) for sample in samples]
        for sample in samples:
            self._push(sample, start_s=0.0, turn=0)

    async def next_events(self) -> Sequence[GenerationEvent]:
        """The sample that is due next advances by one delta; nothing once all have ended.

        Raises:
            EngineFailed: As planned, or the engine was closed.
        """
        self.check_open()
        wanted = self._tokens_per_delta
        if self._breaks and self._fault is not None:
            await self._break_if_due()
            wanted = min(wanted, self._fault.after_tokens - self._delivered_tokens)
        if not self._due:
            return ()
        ready_s, turn, index = self._due[0]
        if ready_s > self._now_s:
            await self._pause(ready_s - self._now_s)
            self._now_s = ready_s
        elif turn != self._turn:
            await self._pause(0)
        if self._is_cancelled:
            return self._cancel_all()
        if turn != self._turn:
            self._turn = turn
            self.decode_steps += 1
        heapq.heappop(self._due)
        sample = self.samples[index]
        delta, finished = sample.take(wanted)
        self._delivered_tokens += delta.num_tokens
        if finished is None:
            self._push(sample, start_s=ready_s, turn=turn + 1)
            return (delta,)
        return (delta, finished)

    def check_open(self) -> None:
        """Raises EngineFailed if the engine was closed."""
        if self._is_closed:
            raise EngineFailed("the engine was closed", model=self._model, is_retryable=False)

    def _cancel_all(self) -> Sequence[GenerationEvent]:
        self._due.clear()
        return [event for sample in self.samples if sample.is_live for event in sample.cancel()]

    def _push(self, sample: ScriptedSample, *, start_s: float, turn: int) -> None:
        num_tokens = sample.num_next(self._tokens_per_delta)
        heapq.heappush(self._due, (start_s + self._token_s[sample.index] * num_tokens, turn, sample.index))

    async def _break_if_due(self) -> None:
        if self._fault is None or not self._breaks or self._delivered_tokens != self._fault.after_tokens:
            return
        if self._fault.kind is FaultKind.FAIL:
            raise EngineFailed(self._fault.message, model=self._model, is_retryable=self._fault.is_retryable)
        while not self._is_cancelled:
            await self._pause(_FOREVER_S)

    async def _pause(self, seconds: float) -> None:
        """Waits, less long if the request is cancelled; lets others run in any case."""
        if self._is_cancelled:
            return
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            async with asyncio.TaskGroup() as group:
                self._sleeper = group.create_task(self._clock.sleep(seconds))
            self._sleeper = None
        self.check_open()

    def _wake(self) -> None:
        if self._sleeper is not None:
            self._sleeper.cancel()

    def _jitter(self, seed: int) -> float:
        return 1.0 + self._latency.jitter * (2 * share(seed, "jitter") - 1) if self._latency.jitter else 1.0
