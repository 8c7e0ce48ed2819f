"""The page of `orchestrator.bench.simulation`: its figures as Markdown. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.bench.report import machine_line, table

LOADS = {"low": 0.4, "near": 0.85, "above": 1.3}
"""Shares of the saturation rate that the simulation predicts."""
WANTED = 0.2
"""Errors up to this are what is wanted."""
LARGE, GPU, GPUS = "llama-3.1-70b", "H100", 4
"""What the large fleets are made of."""
_LAB_NOTE = (
    "What lone jobs cannot show is likely the reason: in the embedded engine's one cache each sequence looks at the "
    "cells of all, so steps grow with everybody's KV, and it serves jobs by turns, so with many at once all of them "
    "hold KV and end late. The simulation has neither. It is made for engines that read each sequence's own KV and "
    "serve first come, first served, such as vLLM."
)


def page(result: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# The fleet simulation against real runs",
        "",
        "Written by `python -m orchestrator.bench.simulation`; what is simulated and why: "
        "[planning](../design/planning.md). " + machine_line(result["machine"]),
        "",
    ]
    for name, title in (
        ("virtual", "A scripted engine of 8 slots, 50 ms a step, behind the real controller, in virtual time"),
        ("slotted", "The same in real time, on a machine shared with other work"),
        ("lab", "`lab:small` in the embedded engine, in a process of its own, behind the real controller"),
    ):
        if name in result:
            lines += _validation(title, result[name])
        if name == "lab" and name in result:
            lines += [_LAB_NOTE, ""]
    if "live" in result:
        lines += _live_section(result["live"])
    if "scales" in result:
        lines += _scale_section(result["scales"])
    return "\n".join(lines) + "\n"


def _validation(title: str, found: dict[str, Any]) -> list[str]:
    has_drift = "step_drift" in found["repeats"][0]["loads"]["low"]
    head = ["load", "repeat", "", "measured", "predicted", "95% of seeds", "error"]
    head += ["load average", "mean step under load / fitted", "error with that known"] if has_drift else []
    rows = []
    for load in LOADS:
        for number, run in enumerate(found["repeats"]):
            one = run["loads"][load]
            for name, label in (("throughput", "jobs/s"), ("p95_s", "p95 of job time, s")):
                low, high = one["range"][name]
                rows.append(
                    [
                        f"{load} ({one['share']:.0%})",
                        number + 1,
                        label,
                        f"{one['measured'][name]:.3g}",
                        f"{one['predicted'][name]:.3g}",
                        f"{low:.3g} to {high:.3g}",
                        f"{one['error'][name]:+.0%}",
                        *(
                            [
                                f"{one['load_average']:.0f}",
                                f"{one['step_drift']:.2f}",
                                f"{one['error_with_drift'][name]:+.0%}",
                            ]
                            if has_drift
                            else []
                        ),
                    ]
                )
    within = [
        f"{load}: throughput {found['loads'][load]['within']['throughput']} of {found['loads'][load]['repeats']}, "
        f"p95 {found['loads'][load]['within']['p95_s']} of {found['loads'][load]['repeats']}"
        for load in LOADS
    ]
    lines = [f"## {title}", ""]
    constants = "; ".join(_constants(run["constants"]) for run in found["repeats"])
    lines += [
        f"Constants of each repeat, fitted to jobs that had the system to themselves: {constants}.",
        "",
        f"Predictions within {WANTED:.0%} of what was measured: {'; '.join(within)}."
        + (_busyness(found) if has_drift else ""),
        "",
        *table(head, rows),
        "",
    ]
    return lines


def _busyness(found: dict[str, Any]) -> str:
    """How much else the machine had to do."""
    loads = [run["loads"][load]["load_average"] for run in found["repeats"] for load in LOADS]
    return (
        f" The machine's load average was {min(loads):.0f} to {max(loads):.0f} meanwhile; the last columns tell "
        "what that did to steps, and what is left of the error."
    )


def _constants(found: dict[str, Any]) -> str:
    step, plane = found["step"], found["step"]["compute"]
    return (
        f"step {1e3 * step['overhead_s']:.2f} ms + {1e3 * plane['sequence_s']:.3f} ms a sequence, prompt token "
        f"{1e3 * plane['prompt_s']:.3f} ms, call {1e3 * found['call_s']:.1f} ms, controller {1e3 * found['job_s']:.1f} "
        f"ms a job and {1e3 * found['sequence_s']:.1f} ms a sequence of CPU (relative error of the fit "
        f"{found['error']:.1%})"
    )


def _live_section(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = ["policy", "jobs", "sequences a job", "p95 live, s", "p95 of shapes, s", "CPU ms a job, live", "of shapes"]
    cells = [
        [
            row["policy"],
            row["jobs"],
            f"{row['sequences']:.1f}",
            f"{row['live_p95_s']:.3f}",
            f"{row['played_p95_s']:.3f}",
            f"{row['live_cpu_ms']:.0f}",
            f"{row['played_cpu_ms']:.1f}",
        ]
        for row in rows
    ]
    return ["## Real policies in virtual time, and their shapes", "", *table(head, cells), ""]


def _scale_section(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = [
        "GPUs",
        "jobs",
        "jobs/s",
        "tokens/s",
        "p50, s",
        "p95, s",
        "busiest / mean",
        "events",
        "CPU s",
        "events/CPU s",
    ]
    cells = [
        [
            f"{row['gpus']:,}",
            f"{row['jobs']:,}",
            f"{row['throughput']:,.1f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['p50_s']:.2f}",
            f"{row['p95_s']:.2f}",
            f"{row['imbalance']:.2f}",
            f"{row['events']:,}",
            f"{row['cpu_s']:.1f}",
            f"{row['events_per_cpu_s']:,.0f}",
        ]
        for row in rows
    ]
    intro = (
        f"`{LARGE}` on {GPUS} {GPU} a replica, as `ttc plan` computes it; `self_consistency` with 8 samples; 80% of "
        "the saturation rate. On paper only: nothing of this was measured on such GPUs."
    )
    return ["## Size", "", intro, "", *table(head, cells), ""]
