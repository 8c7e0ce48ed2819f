"""The page of `orchestrator.bench.ray`."""

from __future__ import annotations

from typing import Any

from orchestrator.bench.report import cell, machine_line, table

_NAMES = {
    "request_ms": ("a request of one token, ms", 2),
    "first_token_ms": ("first token of a stream, ms", 2),
    "delta_ms": ("from delta to delta, ms", 3),
    "tokens_per_delta": ("tokens in a delta", 1),
    "token_cpu_ms": ("CPU time of this process per token, ms", 4),
    "tokens_per_s": ("tokens a second, one sample", 0),
    "tokens_per_s_of_eight": ("tokens a second, eight samples", 0),
}


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    ways = list(result["overhead"])
    lines = [
        "# Ray",
        "",
        "What it costs to run an engine on a Ray cluster, and what more replicas bring. Median (least to most) of",
        f"{result['rounds']} rounds. A real cluster of two nodes, on this one machine; made by",
        "`python -m orchestrator.bench.ray`.",
        "",
        "## What a call and a chunk cost",
        "",
        "A scripted engine that takes no time, so all of it is ours and Ray's. The ways took turns. Deltas are short",
        "where readers stand between engine and job, because the number of tokens that a crash may lose is fixed.",
        "",
        *table(
            ("", *ways),
            [
                (text, *(cell(result["overhead"][way][name], digits) for way in ways))
                for name, (text, digits) in _NAMES.items()
            ],
        ),
        "",
        "## What replicas bring",
        "",
        "A scripted engine that works on 8 requests at once and takes 50 ms a step, so one replica can make 160 tokens",
        "a second; requests of 40 tokens, twice as many at any time as there are slots.",
        "",
        *table(
            ("replicas", "tokens/s", "share of what the slots can make", "cores that the calling process takes"),
            [
                (
                    name,
                    cell(found["tokens_per_s"], 0),
                    cell(found["share_of_ideal"], 3),
                    cell(found["caller_cpu_share"], 2),
                )
                for name, found in result["scaling"].items()
            ],
        ),
        "",
        *_loss(result["scaling"]),
        "",
        *_agreement(result.get("agreement")),
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def _loss(scaling: dict[str, Any]) -> list[str]:  # Any: JSON values
    one = scaling["1"]["tokens_per_s"]["median"]
    speedups = {name: found["tokens_per_s"]["median"] / one for name, found in scaling.items() if name.isdigit()}
    told = ", ".join(f"{speedup:.2f} times as much with {name}" for name, speedup in speedups.items() if name != "1")
    alone = scaling["in this process"]["share_of_ideal"]["median"]
    return [
        f"Against one replica: {told}.",
        f"The engine in this process, without Ray, makes {alone:.1%} of what its slots can make. One replica has twice",
        "as many requests as slots at any time, so its slots never wait for a request; what it loses are steps that",
        "come late in a process that also carries Serve, on cores that all processes share. With several replicas,",
        "requests go to the less loaded of two, so one of them can have fewer requests than slots for a moment; that",
        "comes on top.",
    ]


def _agreement(found: dict[str, Any] | None) -> list[str]:  # Any: JSON values
    if found is None:
        return []
    accuracy = found["accuracy"]
    difference = found["difference"]
    low, high = difference["low"], difference["high"]
    holds = "contains" if low <= 0 <= high else "does not contain"
    here, there = accuracy["in this process"], accuracy["on Ray"]
    return [
        "## The same results",
        "",
        f"The lab's `small` on {found['problems']} problems of `expression`, self-consistency with 4 samples, the same",
        f"seeds: right on {here:.1%} in process and {there:.1%} on the cluster. The",
        f"paired difference is {difference['mean']:+.3f}, its 95% interval {low:+.3f} to {high:+.3f}, which {holds} 0.",
        "(The text of a real model depends on what else is in its batch; scripted engines give the very same trees,",
        "which a test holds.)",
        "",
    ]
