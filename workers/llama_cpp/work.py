"""What the decode thread works on: jobs (one per request) made of tasks (one per sequence).

A task knows its tokens and what to do with the logits it asked for; when and with which others it is computed is the
loop's business.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
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
from orchestrator.workers.llama_cpp.grammar import GrammarGuard
from orchestrator.workers.llama_cpp.model import Vocabulary
from orchestrator.workers.llama_cpp.outbox import EventStream
from orchestrator.workers.llama_cpp.prefix_cache import Lease
from orchestrator.workers.llama_cpp.sampler import FloatRow, TokenSampler, TopTokens, log_normaliser, top_tokens

_DELTA_TOKENS = 8
_DELTA_S = 0.05


class Task:
    """One sequence to compute.

    Attributes:
        job: The request it belongs to.
        tokens: All its tokens known so far.
        first_output: Position of the first token whose logits are wanted; those of all later ones are wanted too.
        lease: Its place in the cache while it is live.
        order: When it was admitted; later ones make room first.
    """

    def __init__(self, job: Job, tokens: list[int], *, first_output: int) -> None:
        self.job = job
        self.tokens = tokens
        self.first_output = first_output
        self.lease: Lease | None = None
        self.order = 0

    @property
    def num_pending(self) -> int:
        """Known tokens whose KV is not computed yet."""
        return len(self.tokens) - (len(self.lease.tokens) if self.lease else 0)

    @property
    def cache_limit(self) -> int:
        """How many of its tokens may come from the cache: not the first one whose logits are wanted."""
        return self.first_output

    @property
    def is_held(self) -> bool:
        """Whether it must wait for its reader."""
        return False

    @property
    def tokens_ahead(self) -> int:
        """Cells it will want beyond its known tokens."""
        return 0

    def take_row(self, position: int, logits: FloatRow) -> bool:
        """Takes the logits at a position; True when the task is complete."""
        raise NotImplementedError


class Job:
    """A request as the loop sees it.

    Attributes:
        tree_id, salt, priority: As in `GenerateRequest`.
        fairness_key: Jobs with the same key share one turn.
        deadline: On the monotonic clock; None for no limit.
        waiting: Tasks that are not live, first to be admitted first.
        live: Tasks that are.
        arrival: Order of submission.
    """

    def __init__(self, *, tree_id: str, salt: str, priority: int, deadline: float | None) -> None:
        self.tree_id = tree_id
        self.salt = salt
        self.priority = priority
        self.fairness_key: object = tree_id or self
        self.deadline = deadline
        self.waiting: deque[Task] = deque()
        self.live: set[Task] = set()
        self.arrival = 0

    def admitted(self, task: Task, cached_tokens: int) -> None:
        """A task became live with so many tokens from the cache."""

    def ended(self, task: Task) -> None:
        """A task took its last row."""

    def cancel(self, detail: str | None) -> None:
        """Ends the job on request, or at its deadline; live tasks were taken off before."""

    def fail(self, error: Exception) -> None:
        """Ends the job with an error."""

    def flush(self) -> None:
        """Sends what should not wait longer."""


class Reading(Task):
    """Reads a prompt for the logits of its last token."""

    def __init__(self, job: Job, tokens: list[int]) -> None:
        super().__init__(job, tokens, first_output=len(tokens) - 1)
        self.logits: FloatRow | None = None

    def take_row(self, position: int, logits: FloatRow) -> bool:
        self.logits = logits.copy()
        return True


class Scoring(Task):
    """Reads a prompt and given tokens for the log probabilities of the latter."""

    def __init__(self, job: Job, prompt: list[int], given: Sequence[int]) -> None:
        super().__init__(job, [*prompt, *given[:-1]], first_output=len(prompt) - 1)
        self._given = given
        self.logprobs: list[float] = []

    @property
    def cache_limit(self) -> int:
        return self.first_output + len(self.logprobs)

    def take_row(self, position: int, logits: FloatRow) -> bool:
        token = self._given[position - self.first_output]
        self.logprobs.append(float(logits[token]) - log_normaliser(logits))
        return len(self.logprobs) == len(self._given)


class Writing(Task):
    """Writes one sample of a `GenerationJob`."""

    def __init__(self, job: GenerationJob, index: int, *, limit: int, guard: GrammarGuard | None) -> None:
        request = job.request
        super().__init__(job, list(job.prompt), first_output=len(job.prompt) - 1)
        self.index = index
        self.output_tokens = 0
        self._writer = job
        self._limit = limit
        self._guard = guard
        self._sampler = TokenSampler(request.sampling, seed=request.samples[index].seed)
        self._text = SampleText(stop=request.stop, monitors=request.monitors)
        self._num_top = max([request.num_logprobs, *(monitor.num_logprobs for monitor in request.monitors)])
        self._ids: list[int] = []
        self._tops: list[TopTokens] = []
        self._unsent = 0
        self._sent_at = 0.0

    @property
    def cache_limit(self) -> int:
        is_fresh = not self.output_tokens and self._writer.first_logits is not None
        return len(self.tokens) if is_fresh else len(self.tokens) - 1

    @property
    def is_held(self) -> bool:
        return self._writer.stream.is_full(self.index)

    @property
    def tokens_ahead(self) -> int:
        return self._limit - self.output_tokens

    def take_row(self, position: int, logits: FloatRow) -> bool:
        if position != len(self.tokens) - 1:
            return False  # computed again after it made room for others; these tokens are written already
        token = self._sampler.pick(logits) if self._guard is None else self._guard.pick(self._sampler, logits)
        if token is None:
            raise EngineFailed(
                "no token of the vocabulary continues the text within the grammar",
                model=self._writer.model_name,
                is_retryable=False,
            )
        self.output_tokens += 1
        self._unsent += 1
        self._writer.stream.produced[self.index] += 1
        vocabulary = self._writer.vocabulary
        if token in vocabulary.end_ids:
            return self.finish(FinishReason.END, None)
        top: tuple[float, ...] = ()
        if self._num_top:
            found = top_tokens(logits, token, self._num_top)
            self._tops.append(found)
            top = found.logprobs
        self._ids.append(token)
        self.tokens.append(token)
        self.first_output = len(self.tokens) - 1
        ending = self._text.push(vocabulary.piece(token), token, top_logprobs=top)
        if ending is not None:
            return self.finish(ending.reason, ending.detail)
        if self.output_tokens >= self._limit:
            return self.finish(FinishReason.LENGTH, None)
        self.flush()
        return False

    def finish(self, reason: FinishReason, detail: str | None) -> bool:
        """Sends what is left and why the sample ends; returns True."""
        self._text.finish()
        if self._unsent:
            self._send(time.monotonic())
        self._writer.send(Finished(self.index, reason, self.output_tokens, detail))
        if self._guard is not None:
            self._guard.free()
        return True

    def drop(self) -> None:
        """Frees what it holds without telling anyone."""
        if self._guard is not None:
            self._guard.free()

    def flush(self) -> None:
        """Sends a delta if one is due: the first token at once, then about every 8 tokens or 50 ms."""
        if not self._unsent:
            return
        now = time.monotonic()
        if self._unsent >= _DELTA_TOKENS or now - self._sent_at >= _DELTA_S or self.is_held:
            self._send(now)

    def _send(self, now: float) -> None:
        request = self._writer.request
        count = request.num_logprobs
        has_logprobs = count > 0
        self._writer.send(
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
        self.cached_tokens = 0
        self.is_read = False
        self._on_news = on_news
        self._reading = Reading(self, prompt)
        self._read_tokens = 0
        self.waiting.append(self._reading)
        room = context_length - len(prompt)
        self._unfinished = {
            Writing(self, index, limit=min(spec.max_tokens, room), guard=guard): None
            for index, (spec, guard) in enumerate(zip(request.samples, guards, strict=True))
        }

    def send(self, event: GenerationEvent) -> None:
        """Queues an event for delivery after this step."""
        self.events.append(event)
        self._on_news(self)

    def admitted(self, task: Task, cached_tokens: int) -> None:
        if task is self._reading and not self._read_tokens:
            self.cached_tokens = self._read_tokens = cached_tokens

    def ended(self, task: Task) -> None:
        if task is self._reading:
            self.first_logits = self._reading.logits
            self.is_read = True
            self.send(Prefilled(len(self.prompt), self.cached_tokens))
            self.waiting.extend(self._unfinished)
        else:
            del self._unfinished[task]  # type: ignore[arg-type]  # every other task is a Writing
        if self.is_read and not self._unfinished:
            self._close(None)

    def cancel(self, detail: str | None) -> None:
        if self.closing is not None:
            return
        if not self.is_read:
            self.send(Prefilled(self._num_read(), self.cached_tokens))
        for task in self._unfinished:
            task.finish(FinishReason.CANCELLED, detail)
        self._close(None)

    def fail(self, error: Exception) -> None:
        if self.closing is None:
            for task in self._unfinished:
                task.drop()
            self._close(error)

    def flush(self) -> None:
        for task in self.live:
            if isinstance(task, Writing):
                task.flush()

    def _num_read(self) -> int:
        lease = self._reading.lease
        return self._read_tokens if lease is None else len(lease.tokens)

    def _close(self, error: Exception | None) -> None:
        self.waiting.clear()
        self._unfinished.clear()
        self.first_logits = None
        self.closing = Closing(error)
        self._on_news(self)


class ReadingJob(Job):
    """A single `Reading` or `Scoring` whose caller awaits the completed task."""

    def __init__(self, *, salt: str = "") -> None:
        super().__init__(tree_id="", salt=salt, priority=0, deadline=None)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[int] = self.loop.create_future()
        self._cached_tokens: int | None = None

    def admitted(self, task: Task, cached_tokens: int) -> None:
        if self._cached_tokens is None:
            self._cached_tokens = cached_tokens

    def ended(self, task: Task) -> None:
        self._settle(lambda: self.done.set_result(self._cached_tokens or 0))

    def cancel(self, detail: str | None) -> None:
        self.waiting.clear()

    def fail(self, error: Exception) -> None:
        self.waiting.clear()
        self._settle(lambda: self.done.set_exception(error))

    def _settle(self, act: Callable[[], None]) -> None:
        def settle() -> None:
            if not self.done.done():
                act()

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(settle)
