"""What is measured while a system is simulated: times of jobs and sequences, tokens, ends."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from orchestrator.planning.simulation.shapes import JobShape
from orchestrator.planning.simulation.work import Sequence

_MOST_KEPT = 1 << 18


class Sample:
    """Values for percentiles; beyond 262,144 of them every second, then every fourth one ... is kept.

    Attributes:
        num_seen: How many there were.
    """

    def __init__(self) -> None:
        self.num_seen = 0
        self._stride = 1
        self._values: list[float] = []

    def add(self, value: float) -> None:
        """One more."""
        if self.num_seen % self._stride == 0:
            self._values.append(value)
            if len(self._values) >= _MOST_KEPT:
                self._values = self._values[::2]
                self._stride *= 2
        self.num_seen += 1

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """Those that were kept, in order."""
        return np.array(self._values, dtype=np.float64)

    def percentiles(self, *shares: float) -> tuple[float, ...]:
        """At each share in [0, 1]; NaN if there are no values."""
        if not self._values:
            return tuple(math.nan for _ in shares)
        return tuple(float(value) for value in np.quantile(self.values, shares))

    @property
    def mean(self) -> float:
        """NaN if there are no values."""
        return float(np.mean(self.values)) if self._values else math.nan


class Measured:
    """Collects what jobs and sequences report.

    Args:
        from_s: Jobs that arrive before this are counted, and not timed.

    Attributes:
        job_s, first_token_s: Of jobs: from arrival to end, to the first token.
        ttft_s, tpot_s: Of sequences: from the call to the first token, and seconds per further token.
        ends_s: When jobs ended that did not fail, all of them.
        num_jobs: Jobs that ended, all of them.
        num_failed: Of those, jobs one of whose calls was refused.
        num_refused: Jobs that were turned away.
        output_tokens: Of the jobs that ended.
        job_seconds: Time spent in the system by the jobs that are timed.
    """

    def __init__(self, from_s: float = 0.0) -> None:
        self.from_s = from_s
        self.job_s = Sample()
        self.first_token_s = Sample()
        self.ttft_s = Sample()
        self.tpot_s = Sample()
        self.ends_s: list[float] = []
        self.num_jobs = 0
        self.num_failed = 0
        self.num_refused = 0
        self.output_tokens = 0
        self.job_seconds = 0.0

    def sequence(self, sequence: Sequence, job_arrived_s: float) -> None:
        """A sequence has ended."""
        if job_arrived_s < self.from_s or sequence.first_token_s < 0:
            return
        self.ttft_s.add(sequence.first_token_s - sequence.call.asked_s)
        if sequence.num_written > 1:
            self.tpot_s.add((sequence.end_s - sequence.first_token_s) / (sequence.num_written - 1))

    def job(
        self, shape: JobShape, arrived_s: float, first_token_s: float, end_s: float, *, has_failed: bool = False
    ) -> None:
        """A job has ended."""
        self.num_jobs += 1
        if has_failed:
            self.num_failed += 1
            return
        self.ends_s.append(end_s)
        self.output_tokens += shape.output_tokens
        if arrived_s >= self.from_s:
            self.job_s.add(end_s - arrived_s)
            self.job_seconds += end_s - arrived_s
            if first_token_s >= 0:
                self.first_token_s.add(first_token_s - arrived_s)

    def refused(self, arrived_s: float) -> None:
        """A job was turned away."""
        del arrived_s
        self.num_refused += 1
