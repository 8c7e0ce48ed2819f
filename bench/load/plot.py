"""The picture of a run: requests, requests in flight, and latencies over time."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import MissingDependency

_TITLE_CHARS = 120
_BLUE, _ORANGE, _RED = "#2a6fbb", "#e08214", "#c0392b"
_Json = Mapping[str, Any]  # Any: JSON values


def write_plot(path: Path, windows: Sequence[_Json], *, title: str, slo_s: Mapping[str, float]) -> None:
    """Writes a PNG.

    Args:
        path: The file.
        windows: As `measures.windows` gives them.
        title: What was under load.
        slo_s: Objectives, drawn where a panel shows what they limit.

    Raises:
        MissingDependency: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency(package="matplotlib", extra="bench", purpose="the plot of a load test") from None

    figure = Figure(figsize=(9, 8), dpi=120, layout="constrained")
    rates, flight, first, whole = figure.subplots(4, 1, sharex=True)
    edges = [windows[0]["from_s"], *(each["to_s"] for each in windows)]
    widths = [each["to_s"] - each["from_s"] for each in windows]
    middles = [each["from_s"] + width / 2 for each, width in zip(windows, widths, strict=True)]

    for name, color in (("sent", _BLUE), ("completed", _ORANGE), ("failed", _RED)):
        if name != "failed" or any(each["failed"] for each in windows):
            per_s = [each[name] / width if width else 0.0 for each, width in zip(windows, widths, strict=True)]
            rates.stairs(per_s, edges, baseline=None, color=color, label=name, linewidth=1.6)
    rates.set_ylabel("requests/s")
    figure.suptitle(textwrap.fill(title, _TITLE_CHARS), x=0.01, ha="left", fontsize="medium")

    flight.plot(edges, [0, *(each["in_flight_at_end"] for each in windows)], color=_BLUE, linewidth=1.6)
    flight.set_ylabel("in flight")

    for panel, key, name, words in ((first, "ttft_s", "ttft", "first token"), (whole, "e2e_s", "e2e", "end to end")):
        for percentile, color in (("p50", _BLUE), ("p90", _ORANGE), ("p99", _RED)):
            values = [each[key].get(percentile, float("nan")) for each in windows]
            panel.plot(middles, values, color=color, label=percentile, marker=".", linewidth=1.6)
        if name in slo_s:
            panel.axhline(slo_s[name], color="0.35", linestyle="--", linewidth=1, label="objective")
        panel.set_ylabel(f"{words} (s)")
    whole.set_xlabel("seconds from the start (latencies at the time when requests were sent)")

    for panel in (rates, flight, first, whole):
        if panel is not flight:
            panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
        panel.set_ylim(bottom=0)
        panel.set_axisbelow(True)
        panel.grid(axis="y", color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
