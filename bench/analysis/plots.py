"""Plots of benchmarks: accuracy against cost, pass@k, accuracy by complexity. Nothing is computed here.

matplotlib is imported when something is drawn, and only through its objects: no window, no global figure.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

from orchestrator.bench.analysis.estimates import Estimate
from orchestrator.bench.analysis.tables import shown
from orchestrator.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Theme = Literal["light", "dark"]

COLOURS: Mapping[Theme, tuple[str, ...]] = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b07c00", "#5b5b5b", "#3a9bd9", "#7b1e4a"),
    "dark": ("#5aa9e6", "#ff8a4c", "#2fc79a", "#e59ac5", "#f0c419", "#b8b8b8", "#8fe0ff", "#c77dbb"),
}
"""After Okabe and Ito: told apart with the common colour deficiencies; markers tell the lines apart besides."""

_PAPER: Mapping[Theme, tuple[str, str, str]] = {
    "light": ("#1b1f24", "#d5dae0", "#ffffff"),
    "dark": ("#e8ecf0", "#39424d", "#181d23"),
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # Any: matplotlib's line styles
_STYLES = tuple(product(_DASHES, zip(range(len(_MARKERS)), _MARKERS, strict=True)))
_SETTINGS = {
    "font.size": 14.0,
    "axes.titlesize": 15.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ttc",
    "text.parse_math": False,
}
_DOTS_PER_INCH = 110
_PANEL_INCHES = (6.0, 4.2)
_LONGEST_NAME = 44
_LEGEND_CHARS = 96  # that fit side by side under two panels
_MOST_NAMES_IN_A_PANEL = 11
_FEW_LINES = 6


class Point(NamedTuple):
    """A measured point of a line."""

    x: float
    y: Estimate


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its name in the legend; points are joined in the order of x."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes; lines of the same name look the same in all panels of a picture.

    Attributes:
        title: Above it; may be empty.
        x_title: Below it, with the unit.
        lines: What is drawn.
        is_log: Whether x is on a logarithmic scale.
        y_title: At its left; y is a share, shown in percent.
        ticks: Where x has labels; at round numbers by default.
    """

    title: str
    x_title: str
    lines: tuple[Line, ...]
    is_log: bool = True
    y_title: str = "accuracy"
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """How a line looks."""

    colour: int
    marker: str
    dashes: Any = field(repr=False)  # Any: matplotlib's line styles


def looks(panels: Sequence[Panel]) -> dict[str, Look]:
    """How the line of each name looks, by order of appearance; after all colours the dashes change."""
    names = dict.fromkeys(line.name for panel in panels for line in panel.lines)
    styles = [_STYLES[place % len(_STYLES)] for place in range(len(names))]
    return {name: Look(colour, marker, dashes) for name, (dashes, (colour, marker)) in zip(names, styles, strict=True)}


def draw(panels: Sequence[Panel], path: Path, *, title: str = "") -> None:
    """All panels in one PNG with one legend outside of them.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure_class, settings = _matplotlib()
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    found = looks(panels)
    has_room = columns * rows > len(panels) and len(found) <= _MOST_NAMES_IN_A_PANEL
    widest = max((len(_legend_name(name)) for name in found), default=0) + 8
    legend_columns = max(1, min(len(found), _LEGEND_CHARS * columns // 2 // widest))
    legend_inches = 0.0 if has_room else 0.32 * math.ceil(len(found) / legend_columns) + 0.2
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows + legend_inches + (0.4 if title else 0.0))
    with settings:
        figure = figure_class(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            _fill(axes, panel, found)
        for axes in grid[len(panels) :]:
            axes.axis("off")
        handles = {name: handle for axes in grid for handle, name in zip(*_handles(axes), strict=True)}
        words = [_legend_name(name) for name in handles]
        if has_room:
            grid[-1].legend(list(handles.values()), words, loc="center", frameon=False)
        elif handles:
            figure.legend(
                list(handles.values()), words, loc="outside lower center", ncols=legend_columns, frameon=False
            )
        if title:
            figure.suptitle(shown(title, longest=90))
        _save(figure, path)


class Svg(NamedTuple):
    """A picture for light and for dark paper."""

    light: str
    dark: str


def draw_svg(panel: Panel, *, look: Mapping[str, Look]) -> Svg:
    """One panel without a legend, for a page that has its own.

    Args:
        panel: What is drawn.
        look: Of `looks` of all panels of the page.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    figure_class, settings = _matplotlib()
    picture = io.BytesIO()
    with settings:
        figure = figure_class(figsize=(5.8, 4.2), layout="constrained")
        _fill(figure.subplots(), panel, look)
        _save(figure, picture, is_svg=True)
    light = picture.getvalue().decode()
    light = light[light.index("<svg") :]
    dark = dict(zip((*COLOURS["light"], *_PAPER["light"]), (*COLOURS["dark"], *_PAPER["dark"]), strict=True))
    return Svg(light, re.sub("#[0-9a-f]{6}", lambda found: dark.get(found[0], found[0]), light))


def draw_pass_at_k(curves: Mapping[str, Mapping[str, Mapping[int, Estimate]]], path: Path) -> None:
    """Pass@k against k, one panel a task.

    Args:
        curves: By task, then by model, then by k.
        path: Of the PNG.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    draw([_pass_at_k_panel(task, models) for task, models in curves.items()], path)


def draw_complexity(curves: Mapping[str, Mapping[str, Mapping[int, Estimate]]], path: Path) -> None:
    """Accuracy of one sample against the complexity of the problems, one panel a task.

    Args:
        curves: By task, then by model, then by complexity.
        path: Of the PNG.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    panels = [
        Panel(task, "complexity", _lines(models), is_log=False, y_title="solved with one sample")
        for task, models in curves.items()
    ]
    draw(panels, path)


def _pass_at_k_panel(task: str, models: Mapping[str, Mapping[int, Estimate]]) -> Panel:
    widths = tuple(map(float, sorted({k for points in models.values() for k in points})))
    return Panel(task, "k", _lines(models), y_title="one of k samples is right", ticks=widths)


def _lines(models: Mapping[str, Mapping[int, Estimate]]) -> tuple[Line, ...]:
    return tuple(Line(model, tuple(Point(x, y) for x, y in sorted(points.items()))) for model, points in models.items())


def _matplotlib() -> tuple[type[Figure], AbstractContextManager[None]]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency(package="matplotlib", extra="bench", purpose="drawing plots") from None

    ink, lines, paper = _PAPER["light"]
    values: dict[Any, Any] = {**_SETTINGS, "grid.color": lines}  # Any: matplotlib's names and values of settings
    values |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
    values |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper)
    return Figure, mpl.rc_context(values)


def _fill(axes: Axes, panel: Panel, look: Mapping[str, Look]) -> None:
    for line in panel.lines:
        points = sorted((point for point in line.points if not panel.is_log or point.x > 0), key=lambda point: point.x)
        if not points:
            continue
        style = look[line.name]
        colour = COLOURS["light"][style.colour]
        values = [point.y.value for point in points]
        bars = axes.errorbar(
            [point.x for point in points],
            values,
            yerr=[
                [max(0.0, point.y.value - point.y.low) for point in points],
                [max(0.0, point.y.high - point.y.value) for point in points],
            ],
            color=colour,
            marker=style.marker,
            linestyle=style.dashes,
            markersize=7,
            linewidth=2,
            elinewidth=1.2,
            capsize=3,
        )
        for whisker in (*bars.lines[1], *bars.lines[2]):
            whisker.set_alpha(0.55 if len(panel.lines) <= _FEW_LINES else 0.3)
        bars.set_label(line.name)
    if panel.title:
        axes.set_title(shown(panel.title))
    axes.set_xlabel(panel.x_title)
    axes.set_ylabel(panel.y_title)
    axes.grid(visible=True, linewidth=0.8)
    axes.set_axisbelow(True)
    _scale(axes, panel)


def _scale(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
    xs = [point.x for line in panel.lines for point in line.points]
    if not panel.is_log:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    axes.set_xscale("log")
    xs = [x for x in xs if x > 0]
    decades = math.log10(max(xs) / min(xs)) if xs else 0.0
    steps = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.5 else (1.0,)
    axes.xaxis.set_major_locator(FixedLocator(panel.ticks) if panel.ticks else LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: compact(value)))
    if decades < 0.3 and xs:
        middle = math.sqrt(max(xs) * min(xs))
        axes.set_xlim(middle / 1.6, middle * 1.6)


def compact(value: float) -> str:
    """A number with a suffix of thousands: 500, 2k, 5M, 1G; small ones as they are."""
    for power, suffix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power * 0.9999:
            return f"{value / 10**power:g}{suffix}"
    return f"{value:g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _handles(axes: Axes) -> tuple[list[Any], list[str]]:  # Any: matplotlib's artists
    found = [container for container in axes.containers if container.get_label()]
    return [container[0] for container in found], [str(container.get_label()) for container in found]


def _legend_name(name: str) -> str:
    word = shown(name, longest=_LONGEST_NAME) or "none"
    return f"\N{ZERO WIDTH SPACE}{word}" if word.startswith("_") else word  # legends leave out names with an underscore


def _save(figure: Figure, path: Path | IO[bytes], *, is_svg: bool = False) -> None:
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None} if is_svg else {"Software": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")  # boxes for scripts that the font lacks
        figure.savefig(path, format="svg" if is_svg else "png", metadata=metadata)
