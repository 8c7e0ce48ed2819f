"""What the engine counts about itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_RATE_WINDOW_S = 10


@dataclass(slots=True)
class Counters:
    """Totals since the engine was opened; written by the thread, read by anyone."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    decode_steps: int = 0
    preemptions: int = 0
    live_sequences: int = 0
    waiting_sequences: int = 0
    recent: deque[tuple[float, float, int]] = field(default_factory=deque)  # (end, seconds, output tokens) of a step

    def step(self, now: float, seconds: float, output_tokens: int) -> None:
        """Takes note of a batch."""
        self.decode_steps += 1
        self.recent.append((now, seconds, output_tokens))
        while self.recent[0][0] < now - _RATE_WINDOW_S:
            self.recent.popleft()

    def tokens_per_s(self, now: float) -> float:
        """Output tokens per busy second over the last ten seconds."""
        steps = [(seconds, tokens) for end, seconds, tokens in list(self.recent) if end >= now - _RATE_WINDOW_S]
        busy_s = sum(seconds for seconds, _ in steps)
        return sum(tokens for _, tokens in steps) / busy_s if busy_s else 0.0
