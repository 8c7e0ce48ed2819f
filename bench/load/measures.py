"""What the exchanges of a run amount to: counts, throughput, latencies, goodput, and whether the sender kept up.

Latencies are of completed requests. Rates are over the whole run, from its start to the end of the last request.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.exchange import Exchange, Outcome
from orchestrator.bench.load.slo import Slo

PERCENTILES = (50, 90, 95, 99)
MAX_LAG_S = 0.05
"""Sends that are later than this (99th percentile) are no longer the plan's; the limit is ours."""
MAX_CPU_SHARE = 0.8
"""Of one core; above it the sender may itself be what makes replies look slow; the limit is ours."""

_NICE_WIDTHS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_MAX_WINDOWS = 20
_WAY_OUT = "send from another machine, or less from this one"

_Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class Run:
    """What a run left.

    Attributes:
        arrivals: The plan.
        exchanges: One for each arrival that was due before the run ended or was stopped.
        duration_s: From the start to the end of the last request, or to the stop.
        cpu_s: Processor seconds that the sender used.
    """

    arrivals: Sequence[Arrival]
    exchanges: Sequence[Exchange]
    duration_s: float
    cpu_s: float

    def of(self, outcome: Outcome) -> list[Exchange]:
        """Sent requests that ended so; or dropped ones."""
        return [
            exchange
            for exchange in self.exchanges
            if exchange.outcome is outcome and (exchange.sent_s is not None or outcome is Outcome.DROPPED)
        ]

    @property
    def starts_s(self) -> list[float]:
        """When requests were sent, sorted."""
        return sorted(exchange.sent_s for exchange in self.exchanges if exchange.sent_s is not None)

    @property
    def ends_s(self) -> list[float]:
        """When they ended, sorted."""
        return sorted(exchange.end_s for exchange in self.exchanges if exchange.end_s is not None)


def measured(run: Run, *, slo: Slo, window_s: float | None = None) -> _Json:
    """All figures of a run."""
    completed = run.of(Outcome.COMPLETED)
    return {
        "duration_s": run.duration_s,
        "counts": counts(run),
        "errors": errors(run),
        "throughput": throughput(run),
        "latency_s": {
            "ttft": distribution(each.ttft_s for each in completed),
            "tpot": distribution(each.tpot_s for each in completed),
            "inter_chunk": distribution(_gaps_s(completed)),
            "e2e": distribution(each.e2e_s for each in completed),
        },
        "goodput": goodput(run, slo),
        "tokens": tokens(run),
        "sender": sender(run),
        "windows": windows(run, window_s or nice_width_s(run.duration_s)),
    }


def counts(run: Run) -> dict[str, int]:
    """Requests by what became of them.

    ``planned = sent + dropped + not_sent`` and ``sent = completed + failed + in_flight_at_stop``.
    """
    by_outcome = {outcome: len(run.of(outcome)) for outcome in Outcome}
    sent = sum(by_outcome.values()) - by_outcome[Outcome.DROPPED]
    return {
        "planned": len(run.arrivals),
        "sent": sent,
        "completed": by_outcome[Outcome.COMPLETED],
        "failed": by_outcome[Outcome.FAILED],
        "in_flight_at_stop": by_outcome[Outcome.IN_FLIGHT],
        "dropped": by_outcome[Outcome.DROPPED],
        "not_sent": len(run.arrivals) - sent - by_outcome[Outcome.DROPPED],
        "peak_in_flight": _peak_in_flight(run.starts_s, run.ends_s),
    }


def errors(run: Run) -> dict[str, _Json]:
    """By kind, the commonest first: how many, and what the first one said."""
    failed = run.of(Outcome.FAILED)
    kinds = Counter(str(exchange.error) for exchange in failed)
    first = {str(exchange.error): exchange.message for exchange in reversed(failed)}
    return {kind: {"count": count, "first_message": first[kind]} for kind, count in kinds.most_common()}


def throughput(run: Run) -> dict[str, float]:
    """Per second; tokens are those of completed requests."""
    completed = run.of(Outcome.COMPLETED)
    span_s = max((arrival.at_s for arrival in run.arrivals), default=0.0)
    return {
        "planned_requests_per_s": _per_s(len(run.arrivals), span_s),
        "completed_requests_per_s": _per_s(len(completed), run.duration_s),
        "output_tokens_per_s": _per_s(sum(each.output_tokens for each in completed), run.duration_s),
    }


def distribution(values: Iterable[float | None]) -> dict[str, float]:
    """Number, mean, percentiles (linear between neighbours) and maximum; only the number where there is none."""
    import numpy as np

    known = np.array([value for value in values if value is not None], dtype=float)
    if not known.size:
        return {"count": 0}
    percentiles = zip(PERCENTILES, np.percentile(known, PERCENTILES), strict=True)
    return {
        "count": int(known.size),
        "mean": float(known.mean()),
        **{f"p{percent}": float(value) for percent, value in percentiles},
        "max": float(known.max()),
    }


def goodput(run: Run, slo: Slo) -> _Json:
    """Requests that kept all objectives: their rate, and their share of all whose fate is known.

    Failed and dropped requests have missed all of them; those in flight when the run was stopped do not count.
    """
    completed = run.of(Outcome.COMPLETED)
    num_judged = len(completed) + len(run.of(Outcome.FAILED)) + len(run.of(Outcome.DROPPED))
    missed = [slo.missed(exchange) for exchange in completed]
    num_good = sum(not names for names in missed)
    return {
        "slo_s": slo.limits(),
        "num_good": num_good,
        "num_judged": num_judged,
        "share": num_good / num_judged if num_judged else 0.0,
        "requests_per_s": _per_s(num_good, run.duration_s),
        "missed_by_completed": {name: sum(name in names for names in missed) for name in slo.limits()},
    }


def tokens(run: Run) -> dict[str, int]:
    """Of completed requests, and what was wanted of them; prompts are known only where the server counts them."""
    completed = run.of(Outcome.COMPLETED)
    told = [(exchange.arrival, exchange.counts) for exchange in completed if exchange.counts is not None]
    return {
        "output": sum(exchange.output_tokens for exchange in completed),
        "output_wanted_at_most": sum(exchange.arrival.output_tokens for exchange in completed),
        "output_of_failed": sum(exchange.output_tokens for exchange in run.of(Outcome.FAILED)),
        "prompt": sum(each.prompt_tokens for _, each in told),
        "prompt_wanted": sum(arrival.input_tokens for arrival, _ in told),
        "prompt_cached": sum(each.cached_tokens for _, each in told),
        "num_requests_estimated": len(completed) - len(told),
    }


def sender(run: Run) -> _Json:
    """Whether the load was what the plan says: how late sends were, and how busy this process was."""
    lag = distribution(exchange.lag_s for exchange in run.exchanges)
    cpu_share = _per_s(run.cpu_s, run.duration_s)
    warnings = []
    if lag.get("p99", 0.0) > MAX_LAG_S:
        warnings.append(
            f"requests were sent late (p99 {lag['p99'] * 1000:.0f} ms after the plan), so that arrivals were not quite "
            f"those planned; {_WAY_OUT}"
        )
    if cpu_share > MAX_CPU_SHARE:
        warnings.append(
            f"the sender used {cpu_share:.0%} of a core: it may be the bottleneck, and latencies include its own "
            f"delays; {_WAY_OUT}"
        )
    return {"lag_s": lag, "cpu_share": cpu_share, "warnings": warnings}


def windows(run: Run, width_s: float) -> list[_Json]:
    """The run in parts of one width. Arrivals and latencies go with when a request was sent, the rest with its end."""
    num_windows = max(1, math.ceil(run.duration_s / width_s))
    sent: list[list[Exchange]] = [[] for _ in range(num_windows)]
    ended: list[list[Exchange]] = [[] for _ in range(num_windows)]
    for exchange in run.exchanges:
        if exchange.sent_s is not None:
            sent[_window(exchange.sent_s, width_s, num_windows)].append(exchange)
            if exchange.end_s is not None:
                ended[_window(exchange.end_s, width_s, num_windows)].append(exchange)
    starts_s, ends_s = run.starts_s, run.ends_s
    found = []
    for number in range(num_windows):
        completed = [each for each in sent[number] if each.outcome is Outcome.COMPLETED]
        done = [each for each in ended[number] if each.outcome is Outcome.COMPLETED]
        end_s = min((number + 1) * width_s, run.duration_s)
        found.append(
            {
                "from_s": number * width_s,
                "to_s": end_s,
                "sent": len(sent[number]),
                "completed": len(done),
                "failed": sum(each.outcome is Outcome.FAILED for each in ended[number]),
                "in_flight_at_end": bisect_left(starts_s, end_s) - bisect_right(ends_s, end_s),
                "output_tokens": sum(each.output_tokens for each in done),
                "ttft_s": distribution(each.ttft_s for each in completed),
                "e2e_s": distribution(each.e2e_s for each in completed),
            }
        )
    return found


def nice_width_s(duration_s: float) -> float:
    """A round width that gives at most 20 windows, of a second at least."""
    return next((width for width in _NICE_WIDTHS_S if duration_s / width <= _MAX_WINDOWS), duration_s / _MAX_WINDOWS)


def _window(time_s: float, width_s: float, num_windows: int) -> int:
    return min(max(0, int(time_s / width_s)), num_windows - 1)


def _peak_in_flight(starts_s: Sequence[float], ends_s: Sequence[float]) -> int:
    return max((bisect_right(starts_s, time_s) - bisect_right(ends_s, time_s) for time_s in starts_s), default=0)


def _gaps_s(exchanges: Iterable[Exchange]) -> Iterable[float]:
    for exchange in exchanges:
        times_s = exchange.chunk_times_s
        yield from (later - earlier for earlier, later in itertools.pairwise(times_s))


def _per_s(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0
