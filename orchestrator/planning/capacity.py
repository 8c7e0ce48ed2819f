"""How many requests of a kind one replica serves within the objectives.

A replica that decodes b sequences at once, each of g = output - 1 further tokens, and computes prompts in between,
serves

    rate(b) = 1 / (prefill + g decode(b) / b)             requests per second (Little's law)
    tpot(b) = decode(b) + b prefill / g                   decoding waits while prompts are computed
    ttft(b) = wait(b) + prefill(longest) + chunks(longest) decode(b)

All three grow with b, so the largest b that keeps both objectives and fits the KV memory is found by bisection, for all
kinds at once. ``wait`` is the quantile of a queue with Poisson arrivals and equal service times s = prefill + (input /
chunk) decode(b) at utilisation u = rate x s, by its exponential tail: s / (2 (1 - u)) ln(u / (1 - quantile)).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.throughput import StepTimes
from orchestrator.planning.workload import Objectives, Workload

Numbers = NDArray[np.float64]

_FEWEST = 1e-3
_ROUNDS = 48
_ALMOST_ALL = 0.999


class Limit(StrEnum):
    """What keeps a replica from serving more of a kind of request."""

    TTFT = "ttft"
    TPOT = "tpot"
    MEMORY = "memory"
    SEQUENCES = "sequences"
    COMPUTE = "compute"
    MEASURED = "measured"


@dataclass(frozen=True, eq=False)
class Capacity:
    """For each kind of request; arrays have shape (m,).

    Attributes:
        rates: Most requests per second that one replica serves within the objectives; 0 where it cannot.
        batch: Sequences that it works on at once, at that rate; the most there may be where nothing is decoded.
        prompt_share: Share of its time that goes into prompts.
        limits: What limits it; where the rate is 0, what stands in the way.
        best_ttft_s: Of an otherwise idle replica, for the longest request.
        best_tpot_s: Of an otherwise idle replica.
        is_measured: Whether the rate comes from measurements.
    """

    rates: Numbers
    batch: Numbers
    prompt_share: Numbers
    limits: tuple[Limit, ...]
    best_ttft_s: Numbers
    best_tpot_s: Numbers
    is_measured: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Load:
    """Requests on a replica, at some point of the search."""

    rate: Numbers
    tpot_s: Numbers
    ttft_s: Numbers


def capacity(times: StepTimes, workload: Workload, objectives: Objectives) -> Capacity:
    """What one replica can do, idealised."""
    model = _Model(times, workload, objectives.quantile)
    fits = workload.longest_total <= times.kv_tokens
    room = np.maximum(times.kv_tokens / workload.resident_tokens, _FEWEST)
    most = np.minimum(room, float(times.assumed.max_sequences))
    idle = model.load(np.zeros(len(workload)), most)
    can = fits & (idle.ttft_s <= objectives.ttft_s) & (idle.tpot_s <= objectives.tpot_s)
    low, high = np.zeros(len(workload)), np.ones(len(workload))
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        load = model.load(middle, most)
        is_kept = (load.ttft_s <= objectives.ttft_s) & (load.tpot_s <= objectives.tpot_s)
        low, high = np.where(is_kept, middle, low), np.where(is_kept, high, middle)
    found = model.load(low, most)
    above = model.load(high, most)
    limits = []
    for at in range(len(workload)):
        if not fits[at]:
            limits.append(Limit.MEMORY)
        elif above.ttft_s[at] > objectives.ttft_s:
            limits.append(Limit.TTFT)
        elif above.tpot_s[at] > objectives.tpot_s:
            limits.append(Limit.TPOT)
        elif not model.decodes[at]:
            limits.append(Limit.COMPUTE)
        else:
            limits.append(Limit.SEQUENCES if room[at] > times.assumed.max_sequences else Limit.MEMORY)
    batch = np.where(model.decodes, model.batch(low, most), times.assumed.max_sequences)
    return Capacity(
        rates=np.where(can, found.rate, 0.0),
        batch=np.where(can, batch, 0.0),
        prompt_share=np.where(model.decodes, np.minimum(found.rate * model.prompt_s, 1.0), 1.0),
        limits=tuple(limits),
        best_ttft_s=np.where(fits, idle.ttft_s, np.inf),
        best_tpot_s=np.where(fits, idle.tpot_s, np.inf),
        is_measured=np.zeros(len(workload), dtype=np.bool_),
    )


class _Model:
    """The formulas above; ``at`` runs from 0, an idle replica, to 1, the most sequences (or all of its time)."""

    def __init__(self, times: StepTimes, workload: Workload, quantile: float) -> None:
        self._times = times
        self._quantile = quantile
        new = workload.input_tokens - workload.cached_tokens
        self.prompt_s = times.prefill_s(new, workload.cached_tokens)
        chunk = times.assumed.chunk_tokens
        self._chunks = new / chunk
        self._longest_s = np.maximum(times.prefill_s(workload.longest_input), times.decode_s(1.0, 0.0))
        self._longest_chunks = np.ceil(workload.longest_input / chunk)
        self._further = workload.output_tokens - 1.0
        self._context = workload.input_tokens + workload.output_tokens / 2
        self.decodes = self._further > 0

    def batch(self, at: Numbers, most: Numbers) -> Numbers:
        """Sequences decoded at once; may be less than one on average."""
        return np.where(self.decodes, _FEWEST * (most / _FEWEST) ** at, 0.0)

    def load(self, at: Numbers, most: Numbers) -> _Load:
        batch = self.batch(at, most)
        decode_s = self._times.decode_s(batch, self._context)
        further = np.maximum(self._further, 1e-9)
        per_request_s = self.prompt_s + further * decode_s / np.maximum(batch, _FEWEST)
        idle_step_s = np.where(self.decodes, decode_s, self._times.assumed.step_s)
        service_s = self.prompt_s + self._chunks * idle_step_s
        rate = np.where(self.decodes, 1.0 / per_request_s, at * _ALMOST_ALL / service_s)
        tpot_s = np.where(self.decodes, decode_s + batch * self.prompt_s / further, 0.0)
        busy = rate * service_s
        with np.errstate(divide="ignore", invalid="ignore"):
            tail = np.log(busy / (1.0 - self._quantile))
            wait_s = np.where(tail > 0, service_s / (2.0 * (1.0 - busy)) * tail, 0.0)
        wait_s = np.where(busy < 1.0, wait_s, np.inf)
        ttft_s = wait_s + self._longest_s + self._longest_chunks * idle_step_s
        return _Load(rate, tpot_s, ttft_s)
