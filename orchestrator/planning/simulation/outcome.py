"""What comes of a simulated run, and of several: numbers with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

_STEADY = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOutcome:
    """Of one model's replicas, in the time that counts.

    Attributes:
        busy: Share of the time that replicas compute.
        batch: Sequences in a batch, mean over busy time.
        kv: Share of the KV memory in use, mean over busy time.
        hits: Share of prompt tokens that were in the cache.
        written_per_s, read_per_s: Tokens per second of all replicas.
        recomputed: Share of the tokens read that had been computed before.
        preemptions: Sequences that made room for others.
        imbalance: Busiest replica's share over the mean one.
        refused: Calls that were turned away.
        queued: Sequences and calls that wait at the end of the arrivals, per replica.
    """

    busy: float
    batch: float
    kv: float
    hits: float
    written_per_s: float
    read_per_s: float
    recomputed: float
    preemptions: float
    imbalance: float
    refused: float
    queued: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one run.

    Attributes:
        offered: Jobs per second that arrived.
        throughput: Jobs per second that ended well.
        tokens_per_s: Output tokens per second, of all models.
        job_p50_s, job_p95_s, job_p99_s, job_mean_s: From a job's arrival to its end.
        first_p95_s: From a job's arrival to its first token; NaN where that is not known.
        ttft_p50_s, ttft_p95_s: From a call to a sequence's first token.
        tpot_mean_s, tpot_p95_s: Seconds per further token.
        usd_per_1000_jobs: Of all replicas, busy or not.
        backlog: Jobs that had not ended when arrivals ended, above those when counting began, as a share of the jobs
            that arrived between.
        failed, refused, unfinished: Shares of the jobs that arrived in the time that counts.
        controllers_busy: Share of the controllers' time.
        pools: By model.
        num_jobs: That ended, in all.
        events, wall_s: What the simulation took.
    """

    offered: float
    throughput: float
    tokens_per_s: float
    job_p50_s: float
    job_p95_s: float
    job_p99_s: float
    job_mean_s: float
    first_p95_s: float
    ttft_p50_s: float
    ttft_p95_s: float
    tpot_mean_s: float
    tpot_p95_s: float
    usd_per_1000_jobs: float
    backlog: float
    failed: float
    refused: float
    unfinished: float
    controllers_busy: float
    pools: Mapping[str, PoolOutcome] = field(default_factory=dict)
    num_jobs: int = 0
    events: int = 0
    wall_s: float = 0.0

    @property
    def is_steady(self) -> bool:
        """Whether the system keeps up: hardly any job is lost, and the backlog does not grow."""
        return self.backlog < 1 - _STEADY and self.failed + self.refused < 0.01

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """JSON values; what is not known is null."""
        values: dict[str, Any] = _without_nan({**asdict(self), "is_steady": self.is_steady})  # Any: JSON values
        return values


def _without_nan(value: Any) -> Any:  # Any: JSON values
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Estimate(NamedTuple):
    """A mean over seeds, and half the width of its 95% interval (Student's t; NaN for one seed)."""

    mean: float
    half_width: float


def estimate(values: Sequence[float]) -> Estimate:
    """Of independent runs; those where the value is not known are left out."""
    known = np.array([value for value in values if math.isfinite(value)])
    if not len(known):
        return Estimate(math.nan, math.nan)
    if len(known) == 1:
        return Estimate(float(known[0]), math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Estimate(float(known.mean()), half)
