"""What is written down about each request: when it was due, sent, answered token by token, and how it ended."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.target import TokenCounts


class Outcome(StrEnum):
    """How a request ended."""

    IN_FLIGHT = "in_flight"  # when the run was stopped
    COMPLETED = "completed"
    FAILED = "failed"
    DROPPED = "dropped"  # never sent: too many were in flight


@dataclass(slots=True)
class Exchange:
    """One request; all times in seconds from the start of the run.

    Attributes:
        index: Number of the arrival, from 0.
        arrival: The plan.
        outcome: How it ended.
        sent_s: When it was handed to the HTTP client; None if it never was.
        chunk_times_s: When each chunk with content arrived.
        end_s: When the reply ended, or broke.
        counts: The server's counts; None if it told none.
        error: Kind of the failure.
        message: What the server, or the HTTP client, said about it.
        status: HTTP status; None where there was none.
    """

    index: int
    arrival: Arrival
    outcome: Outcome = Outcome.IN_FLIGHT
    sent_s: float | None = None
    chunk_times_s: array[float] = field(default_factory=lambda: array("d"))
    end_s: float | None = None
    counts: TokenCounts | None = None
    error: str | None = None
    message: str = ""
    status: int | None = None

    @property
    def lag_s(self) -> float | None:
        """How late it was sent."""
        return None if self.sent_s is None else self.sent_s - self.arrival.at_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from when it was sent; None if none came."""
        return None if self.sent_s is None or not self.chunk_times_s else self.chunk_times_s[0] - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for replies of fewer than two tokens."""
        num_gaps = self.output_tokens - 1
        if num_gaps < 1 or len(self.chunk_times_s) < 2:
            return None
        return (self.chunk_times_s[-1] - self.chunk_times_s[0]) / num_gaps

    @property
    def e2e_s(self) -> float | None:
        """From when it was sent to the end of its reply."""
        return None if self.sent_s is None or self.end_s is None else self.end_s - self.sent_s

    @property
    def output_tokens(self) -> int:
        """By the server's count, else one per chunk."""
        return len(self.chunk_times_s) if self.counts is None else self.counts.output_tokens

    @property
    def is_estimated(self) -> bool:
        """Whether tokens are counted chunks."""
        return self.counts is None

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """A line of ``requests.jsonl``; without any text of prompt or reply."""
        return {
            "index": self.index,
            "outcome": self.outcome.value,
            "planned_s": _rounded(self.arrival.at_s),
            "sent_s": _rounded(self.sent_s),
            "first_token_s": _rounded(self.chunk_times_s[0]) if self.chunk_times_s else None,
            "end_s": _rounded(self.end_s),
            "chunk_times_s": [_rounded(time_s) for time_s in self.chunk_times_s],
            "wanted_input_tokens": self.arrival.input_tokens,
            "wanted_output_tokens": self.arrival.output_tokens,
            "prompt_tokens": None if self.counts is None else self.counts.prompt_tokens,
            "cached_tokens": None if self.counts is None else self.counts.cached_tokens,
            "output_tokens": self.output_tokens,
            "is_estimated": self.is_estimated,
            "status": self.status,
            "error": self.error,
            "message": self.message,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
