"""Why there is no plan, in sentences: which requests, on which GPUs, what the nearest is, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.errors import InvalidRequest
from orchestrator.planning.capacity import Capacity, Limit
from orchestrator.planning.mix import Infeasible, Kind
from orchestrator.planning.shapes import ModelShape
from orchestrator.planning.throughput import StepTimes
from orchestrator.planning.workload import Objectives, Workload

_SHOWN = 3


def over_context(role: str, shape: ModelShape, workload: Workload) -> None:
    """Refuses requests that the model cannot read.

    Raises:
        InvalidRequest: There are some; says what share, and how long the longest is.
    """
    over = workload.longest_total > shape.context
    if over.any():
        share = workload.rates[over].sum() / workload.rate
        raise InvalidRequest(
            f"requests to {role} are up to {int(workload.longest_total.max()):,} tokens long, but {shape.name!r} reads "
            f"at most {shape.context:,}; buckets with {share:.1%} of the requests have such ones; choose a model with "
            "a longer context, or leave them out with --over-context drop",
            field="context",
            value=int(workload.longest_total.max()),
        )


def why_unserved(
    role: str,
    shape: ModelShape,
    workload: Workload,
    places: Sequence[int],
    *,
    capacities: Mapping[Kind, Capacity],
    times: Mapping[Kind, StepTimes],
    objectives: Objectives,
) -> list[str]:
    """For buckets that no kind of replica can serve."""
    by_cause: dict[str, list[int]] = {}
    for place in places:
        by_cause.setdefault(_cause(place, capacities, objectives), []).append(place)
    reasons = []
    for cause, found in by_cause.items():
        rate_share = workload.rates[found].sum() / workload.rate
        who = f"{role}: {_shown([workload.labels[place] for place in found])} ({rate_share:.1%} of its requests): "
        if cause == "memory":
            reasons.append(who + _memory(shape, workload, found, times))
        elif cause == "measured":
            reasons.append(who + "every measurement near them misses the objectives")
        else:
            reasons.append(who + _slow(cause, found, capacities, objectives))
    return reasons


def _cause(place: int, capacities: Mapping[Kind, Capacity], objectives: Objectives) -> str:
    """The objective that the nearest kind misses, or memory if no kind can hold such a request."""
    able = [found for found in capacities.values() if np.isfinite(found.best_ttft_s[place])]
    if not able:
        return "memory"
    if all(found.limits[place] is Limit.MEASURED for found in able):
        return "measured"
    if all(found.best_ttft_s[place] > objectives.ttft_s for found in able):
        return "ttft"
    if all(found.best_tpot_s[place] > objectives.tpot_s for found in able):
        return "tpot"
    return "both"


def _slow(cause: str, places: Sequence[int], capacities: Mapping[Kind, Capacity], objectives: Objectives) -> str:
    """Which value could be promised, on what: the least for which every bucket has a kind."""
    if cause == "both":
        return (
            f"no GPU keeps both TTFT {objectives.ttft_s:g} s and TPOT {objectives.tpot_s:g} s, though each is kept "
            "by some; loosen one of them"
        )
    name, wanted = ("TTFT", objectives.ttft_s) if cause == "ttft" else ("TPOT", objectives.tpot_s)
    worst, nearest = 0.0, next(iter(capacities))
    for place in places:
        values = {
            kind: float((found.best_ttft_s if cause == "ttft" else found.best_tpot_s)[place])
            for kind, found in capacities.items()
        }
        kind = min(values, key=lambda each: values[each])
        if values[kind] >= worst:
            worst, nearest = values[kind], kind
    return (
        f"no GPU has a {name} of at most {wanted:g} s, even when idle; the nearest is {_kind(nearest)} with "
        f"{_rounded_up(worst):g} s: ask for --{cause} {_rounded_up(worst):g} or more, allow more GPUs for one replica, "
        "or choose a smaller model"
    )


def _memory(shape: ModelShape, workload: Workload, places: Sequence[int], times: Mapping[Kind, StepTimes]) -> str:
    """How many GPUs one replica would need, by type."""
    tokens = float(workload.longest_total[list(places)].max())
    needed = shape.memory_bytes + tokens * shape.kv_bytes_per_token
    options = {}
    for kind, steps in times.items():
        deployment, assumed = steps.deployment, steps.assumed
        each = deployment.gpu.memory_bytes * assumed.memory - assumed.reserved_gib * (1 << 30)
        count = next((size for size in (2**power for power in range(16)) if each > 0 and size * each >= needed), None)
        if count is not None and kind.gpu not in options:
            options[kind.gpu] = (count, deployment.gpu.most_per_node)
    shown = ", ".join(
        f"{count} x {gpu}" + (f" (a node has at most {most})" if count > most else "")
        for gpu, (count, most) in options.items()
    )
    return (
        f"no GPU that may be used holds {shape.name!r} ({shape.memory_bytes / 1e9:.1f} GB of weights) and the KV of "
        f"{tokens:,.0f} tokens ({tokens * shape.kv_bytes_per_token / 1e9:.1f} GB); one replica needs "
        f"{shown or 'more'}: allow more GPUs for one replica (--max-gpus), "
        "other types, or quantised weights (--weight-bits)"
    )


def why_capped(caps: Mapping[str, int], found: Infeasible) -> list[str]:
    """For a load that needs more GPUs than there may be."""
    missing = " and ".join(f"{count:,} x {gpu}" for gpu, count in found.missing.items())
    given = ", ".join(f"{gpu} {cap:,}" for gpu, cap in caps.items())
    reasons = [f"the caps bind ({given}): the fewest GPUs that would have to be added are {missing}"]
    if len(found.alone) > 1:
        enough = [f"{gpu} to {count:,}" for gpu, count in found.alone.items() if count is not None]
        reasons.append("raising one cap only: " + (", or ".join(enough) if enough else "none is enough"))
    return reasons


def _kind(kind: Kind) -> str:
    return kind.gpu if kind.gpus == 1 else f"{kind.gpus} x {kind.gpu}"


def _shown(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more buckets" if len(labels) > _SHOWN else ""
    return "; ".join(labels[:_SHOWN]) + more


def _rounded_up(value: float) -> float:
    """To three digits, never below."""
    scale = 10.0 ** (2 - int(np.floor(np.log10(value)))) if value > 0 else 1.0
    return float(np.ceil(value * scale) / scale)
