"""What vLLM's scheduler says of itself, added up: the hits of its prefix cache, guesses that were right, KV in use."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_RATE_WINDOW_S = 10.0
_IDLE_S = 1.0
"""After so long a silence the core is taken to have had nothing to do."""


@dataclass(slots=True)
class SchedulerCounters:
    """Totals since the core was started, and what is now; written by vLLM's stat logger, read by `health`.

    Attributes:
        steps: Batches run.
        prefix_queries: Prompt tokens that were looked for in the prefix cache.
        prefix_hits: How many of them were there.
        generated_tokens: Tokens sampled, those that were dropped here included.
        preemptions: Times a sequence had to give up its KV.
        drafts, draft_tokens, accepted_tokens: Of speculative decoding.
        kv_usage: Share of the KV cache in use, from 0 to 1; blocks kept for later hits do not count.
        peak_kv_usage: Most that ever was.
        running, waiting: Sequences, now.
    """

    steps: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    kv_usage: float = 0.0
    peak_kv_usage: float = 0.0
    running: int = 0
    waiting: int = 0
    _recent: deque[tuple[float, float, int]] = field(default_factory=deque)  # (end, seconds, tokens) of a step
    _last_at: float = 0.0

    def take(
        self, scheduler: Any, iteration: Any, *, now: float
    ) -> None:  # Any: vLLM's statistics; no stable interface
        """Adds what one step brought."""
        if scheduler is not None:
            self.steps += 1
            self.running, self.waiting = scheduler.num_running_reqs, scheduler.num_waiting_reqs
            self.kv_usage = scheduler.kv_cache_usage
            self.peak_kv_usage = max(self.peak_kv_usage, self.kv_usage)
            self.prefix_queries += scheduler.prefix_cache_stats.queries
            self.prefix_hits += scheduler.prefix_cache_stats.hits
            if (guesses := scheduler.spec_decoding_stats) is not None:
                self.drafts += guesses.num_drafts
                self.draft_tokens += guesses.num_draft_tokens
                self.accepted_tokens += guesses.num_accepted_tokens
        if iteration is not None:
            self.generated_tokens += iteration.num_generation_tokens
            self.preemptions += iteration.num_preempted_reqs
            seconds = now - self._last_at
            if seconds < _IDLE_S:
                self._recent.append((now, seconds, iteration.num_generation_tokens))
        self._last_at = now
        while self._recent and self._recent[0][0] < now - _RATE_WINDOW_S:
            self._recent.popleft()

    def tokens_per_s(self, now: float) -> float:
        """Tokens per busy second over the last ten seconds."""
        steps = [(seconds, tokens) for end, seconds, tokens in self._recent if end >= now - _RATE_WINDOW_S]
        busy_s = sum(seconds for seconds, _ in steps)
        return sum(tokens for _, tokens in steps) / busy_s if busy_s else 0.0

    def tokens_per_draft(self) -> float | None:
        """Mean tokens that a guess brought, the model's own included; None before the first."""
        return 1 + self.accepted_tokens / self.drafts if self.drafts else None


class StatLogger:
    """Has the methods of vLLM's ``StatLoggerBase``; made by a factory for each core."""

    def __init__(self, counters: SchedulerCounters) -> None:
        self._counters = counters

    def record(
        self,
        scheduler_stats: Any,  # Any: see `SchedulerCounters.take`
        iteration_stats: Any,
        mm_cache_stats: Any = None,  # noqa: ARG002  # vLLM's signature
        engine_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Takes the statistics of one step."""
        self._counters.take(scheduler_stats, iteration_stats, now=time.monotonic())

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Nothing to say."""
