"""Writing samples: one `GenerationJob` for a request, one `Writing` for each of its samples."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.engine import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    Prefilled,
    TokenAlternatives,
)
from orchestrator.errors import EngineFailed
from orchestrator.stopping import SampleText
from orchestrator.workers.llama_cpp.choosing import Choice
from orchestrator.workers.llama_cpp.grammar import GrammarGuard
from orchestrator.workers.llama_cpp.model import Vocabulary
from orchestrator.workers.llama_cpp.outbox import EventStream, Parcel
from orchestrator.workers.llama_cpp.sampler import FloatRow, TopTokens
from orchestrator.workers.llama_cpp.work import Job, Reading, Task

_DELTA_TOKENS = 16
_DELTA_S = 0.05


class Writing(Task):
    """Writes one sample of a `GenerationJob`."""

    def __init__(self, job: GenerationJob, index: int, *, limit: int, guard: GrammarGuard | None) -> None:
        request = job.request
        super().__init__(job, list(job.prompt), first_output=len(job.prompt) - 1)
        self.index = index
        self.output_tokens = 0
        self.writer = job
        self.sampling = request.sampling
        self.random = random.Random(request.samples[index].seed)  # noqa: S311  reproducible on purpose
        self.guard = guard
        self.num_top = max([request.num_logprobs, *(monitor.num_logprobs for monitor in request.monitors)])
        self._limit = limit
        self._delta_tokens = max(1, min(_DELTA_TOKENS, request.max_unread_tokens // 2))
        self._text = SampleText(stop=request.stop, monitors=request.monitors)
        self._ids: list[int] = []
        self._tops: list[TopTokens] = []
        self._unsent = 0
        self._sent_at = 0.0
        self._has_ended_turn = False

    @property
    def cache_limit(self) -> int:
        """All of it while the prompt's logits are at hand, else all but the last token."""
        is_fresh = not self.output_tokens and self.writer.first_logits is not None
        return len(self.tokens) if is_fresh else len(self.tokens) - 1

    @property
    def is_held(self) -> bool:
        """Whether the reader is too far behind."""
        return self.writer.stream.is_full(self.index)

    @property
    def tokens_ahead(self) -> int:
        """Tokens it may still write."""
        return self._limit - self.output_tokens

    @property
    def is_over(self) -> bool:
        """Whether the model has ended its turn."""
        return self._has_ended_turn

    def take(self, choice: Choice) -> bool:
        """Takes the next token; True when the sample is complete."""
        token, top = choice
        if token is None:
            raise EngineFailed(
                "no token of the vocabulary continues the text within the grammar",
                model=self.writer.model_name,
                is_retryable=False,
            )
        self.output_tokens += 1
        self._unsent += 1
        self.writer.stream.produced[self.index] += 1
        vocabulary = self.writer.vocabulary
        if token in vocabulary.end_ids:
            return self.finish(FinishReason.END, None)
        if top is not None:
            self._tops.append(top)
        self._ids.append(token)
        self.tokens.append(token)
        self.first_output = len(self.tokens) - 1
        ending = self._text.push(vocabulary.piece(token), token, top_logprobs=top.logprobs if top else ())
        if ending is not None:
            return self.finish(ending.reason, ending.detail)
        if self.output_tokens >= self._limit:
            return self.finish(FinishReason.LENGTH, None)
        return False

    def finish(self, reason: FinishReason, detail: str | None) -> bool:
        """Sends what is left and why the sample ends; returns True."""
        self._text.finish()
        self._has_ended_turn = reason is FinishReason.END
        if self._unsent:
            self._send(time.monotonic())
        self.writer.send(
            Finished(
                self.index,
                reason,
                self.output_tokens,
                detail,
                recomputed_tokens=self.recomputed_tokens,
                tree_kv_cells=self.writer.kv_cells(),
            )
        )
        if self.guard is not None:
            self.guard.free()
        return True

    def drop(self) -> None:
        """Frees what it holds without telling anyone."""
        if self.guard is not None:
            self.guard.free()

    def flush(self, now: float) -> None:
        """Sends a delta if one is due: the first token at once, then every 16 tokens (or fewer) or 50 ms."""
        if self._unsent >= self._delta_tokens or (self._unsent and now - self._sent_at >= _DELTA_S):
            self._send(now)

    def _send(self, now: float) -> None:
        request = self.writer.request
        count = request.num_logprobs
        has_logprobs = count > 0
        self.writer.send(
            Delta(
                self.index,
                self._text.take(),
                self._unsent,
                tuple(self._ids),
                tuple(top.chosen for top in self._tops) if has_logprobs else None,
                tuple(TokenAlternatives(top.tokens[:count], top.logprobs[:count]) for top in self._tops)
                if has_logprobs
                else None,
            )
        )
        self._unsent = 0
        self._ids.clear()
        self._tops.clear()
        self._sent_at = now


@dataclass(slots=True)
class Closing:
    """How a stream ends."""

    error: Exception | None


class GenerationJob(Job):
    """Samples of one prompt: a `Reading` of it first, then one `Writing` per sample.

    Attributes:
        prompt: Its ids.
        first_logits: Of the prompt's last token, kept until every sample has started.
        events: Not yet delivered.
        closing: Set when no event will follow.
    """

    def __init__(
        self,
        request: GenerateRequest,
        prompt: list[int],
        *,
        stream: EventStream,
        vocabulary: Vocabulary,
        model_name: str,
        context_length: int,
        guards: Sequence[GrammarGuard | None],
        kv_cells: Callable[[object], int],
        on_news: Callable[[GenerationJob], None],
    ) -> None:
        deadline = None if request.deadline_s is None else time.monotonic() + request.deadline_s
        super().__init__(tree_id=request.tree_id, salt=request.cache_salt, priority=request.priority, deadline=deadline)
        self.request = request
        self.prompt = prompt
        self.stream = stream
        self.vocabulary = vocabulary
        self.model_name = model_name
        self.events: list[GenerationEvent] = []
        self.closing: Closing | None = None
        self.first_logits: FloatRow | None = None
        self._kv_cells = kv_cells
        self._on_news = on_news
        self._reading = Reading(self, prompt)
        self.reading = self._reading
        self.waiting.append(self._reading)
        room = context_length - len(prompt)
        self._unfinished = {
            Writing(self, index, limit=min(spec.max_tokens, room), guard=guard): None
            for index, (spec, guard) in enumerate(zip(request.samples, guards, strict=True))
        }

    @property
    def num_unfinished(self) -> int:
        """Samples that are not complete."""
        return len(self._unfinished)

    def kv_cells(self) -> int:
        """Most KV cells that its tree has held so far."""
        return self._kv_cells(self.owner)

    def send(self, event: GenerationEvent) -> None:
        """Queues an event for delivery after this step."""
        self.events.append(event)
        self._on_news(self)

    def ended(self, task: Task) -> None:
        """Starts the samples after the prompt; closes the stream after the last sample."""
        if task is self._reading:
            self.first_logits = self._reading.logits
            self.send(Prefilled(len(self.prompt), self.cached_tokens, self.reading.recomputed_tokens))
            self.waiting.extend(self._unfinished)
        else:
            del self._unfinished[task]  # type: ignore[arg-type]  # every other task is a Writing
        if self.is_read and not self._unfinished:
            self._close(None)

    def cancel(self, detail: str | None) -> None:
        """Finishes what is unfinished, with exact counts."""
        if self.closing is not None:
            return
        if not self.is_read:
            self.send(Prefilled(self.reading.num_read, self.cached_tokens, self.reading.recomputed_tokens))
        for task in self._unfinished:
            task.finish(FinishReason.CANCELLED, detail)
        self._close(None)

    def fail(self, error: Exception) -> None:
        """Closes the stream with an error."""
        if self.closing is None:
            for task in self._unfinished:
                task.drop()
            self._close(error)

    def parcel(self) -> Parcel:
        """Takes all events that wait for delivery."""
        closing, events = self.closing, self.events
        self.events = []
        return Parcel(self.stream, events, closing is not None, closing.error if closing else None)

    def flush(self, now: float) -> None:
        """Sends deltas that are due."""
        for task in self.live:
            if isinstance(task, Writing):
                task.flush(now)

    def _close(self, error: Exception | None) -> None:
        self._unfinished.clear()
        self.first_logits = None
        self.closing = Closing(error)
        self._on_news(self)
