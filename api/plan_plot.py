"""A plan as a picture: what it costs beside others, and which GPUs serve requests of which size.

matplotlib is imported when something is drawn, and only through its objects: no window, no global figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.planning.plan import Plan, RolePlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b07c00", "#5b5b5b", "#3a9bd9", "#7b1e4a")
"""After Okabe and Ito: told apart with the common colour deficiencies."""
_DOTS_PER_INCH = 110
_LARGEST = 500.0


def draw_plan(plan: Plan, path: Path) -> Path:
    """Writes the picture.

    Raises:
        MissingDependency: There is no matplotlib.
        InvalidRequest: The file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(package="matplotlib", extra="bench", purpose="--plot") from error
    panels = 1 + len(plan.roles)
    figure = Figure(figsize=(6.0 * panels, 4.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_costs(axes[0], plan)
    for place, role in zip(axes[1:], plan.roles, strict=True):
        _draw_routes(place, role)
    try:
        figure.savefig(path, dpi=_DOTS_PER_INCH)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot write {str(path)!r}: {reason}", field="plot", value=str(path)) from error
    return path


def _draw_costs(axes: Axes, plan: Plan) -> None:
    others = [(f"only {single.name}", single.usd_per_hour) for single in plan.singles]
    others.append((plan.unrouted.name, plan.unrouted.usd_per_hour))
    able = sorted(((name, cost) for name, cost in others if cost is not None), key=lambda each: each[1])
    shown = [("this plan", plan.usd_per_hour), *able]
    names, costs = [name for name, _ in shown], [cost for _, cost in shown]
    colours = [_COLOURS[2], *[_COLOURS[5]] * (len(shown) - 1)]
    bars = axes.barh(range(len(shown)), costs, color=colours)
    axes.bar_label(bars, [f"{cost:,.2f}" for cost in costs], padding=3)
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("dollars per hour, idealised throughput")
    axes.set_title("cost")


def _draw_routes(axes: Axes, role: RolePlan) -> None:
    load = role.workload
    sizes = np.maximum(load.rates / load.rates.max() * _LARGEST, 8.0)
    for place, kind in enumerate(role.replicas):
        shares = role.shares[kind]
        used = shares > 0
        label = kind.gpu if kind.gpus == 1 else f"{kind.gpus} x {kind.gpu}"
        axes.scatter(
            load.input_tokens[used],
            load.output_tokens[used],
            s=sizes[used] * shares[used],
            color=_COLOURS[place % len(_COLOURS)],
            alpha=0.7,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("input tokens")
    axes.set_ylabel("output tokens")
    axes.set_title(f"{role.role}: who serves which size")
    axes.legend()
