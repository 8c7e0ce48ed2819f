"""A simulated study as a picture: job times and cost against the load, a line for each size of the fleet.

matplotlib is imported when something is drawn, and only through its objects: no window, no global figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.planning.simulation.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b07c00", "#5b5b5b", "#3a9bd9", "#7b1e4a")
"""After Okabe and Ito: told apart with the common colour deficiencies."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_DOTS_PER_INCH = 110
_PANELS = (
    ("job_p95_s", "p95 of job time, s", 1.0),
    ("throughput", "jobs/s per GPU", 1.0),
    ("usd_per_1000_jobs", "$ per 1000 jobs", 1.0),
)


def draw_study(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture; what has an interval has bars.

    Raises:
        MissingDependency: There is no matplotlib.
        InvalidRequest: The file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(package="matplotlib", extra="bench", purpose="--plot") from error
    figure = Figure(figsize=(5.2 * len(_PANELS), 4.2), layout="constrained")
    for axes, (name, label, _) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        _draw(axes, rows, name, label)
    try:
        figure.savefig(path, dpi=_DOTS_PER_INCH)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot write {str(path)!r}: {reason}", field="plot", value=str(path)) from error


def _draw(axes: Axes, rows: Sequence[Row], name: str, label: str) -> None:
    by_size: dict[float, list[Row]] = {}
    for row in rows:
        by_size.setdefault(row.gpus, []).append(row)
    for place, (gpus, line) in enumerate(by_size.items()):
        per = gpus if name == "throughput" else 1.0
        values = [row.value(name) for row in line]
        axes.errorbar(
            [row.rate / gpus for row in line],
            [value.mean / per for value in values],
            yerr=[0.0 if value.half_width != value.half_width else value.half_width / per for value in values],
            color=_COLOURS[place % len(_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            capsize=3,
            label=f"{gpus:g} GPUs",
        )
    axes.set_xlabel("jobs/s that arrive, per GPU")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
