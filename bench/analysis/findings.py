"""What a report says of a benchmark's rows: figures of cells, comparisons on all axes, how wide the intervals are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from orchestrator.bench.analysis.axes import AXES, UNKNOWN, Axis
from orchestrator.bench.analysis.comparison import (
    EQUAL_ACCURACY_NOTE,
    SetComparison,
    accuracies_of,
    check_baseline,
    check_shares,
    compare_set,
    equal_budget_table,
)
from orchestrator.bench.analysis.curves import CostRatio
from orchestrator.bench.analysis.estimates import (
    DEFAULT_MARGIN,
    DIFFERENCES,
    SHARES,
    Bounds,
    Floats,
    half_widths,
    json_number,
)
from orchestrator.bench.analysis.pairing import EqualAccuracy, baselines_of, paired_problems
from orchestrator.bench.analysis.plots import Line, Panel, Point
from orchestrator.bench.analysis.summary import (
    Cell,
    CellSummary,
    Group,
    cells_of,
    is_right,
    series_names,
    series_of,
    summary_of,
)
from orchestrator.bench.analysis.tables import Table, ratio, share
from orchestrator.bench.runs.rows import Row

PLOTTED = ("output_tokens", "total_tokens", "effective_flops", "usd", "wall_s")
"""The axes of plots and of the tables of costs, where they are known."""

_COUNTS = (50, 100, 200, 500, 1000)


@dataclass(frozen=True, slots=True)
class SetFindings:
    """What is said of one problem set.

    Attributes:
        group: Suite and set.
        cells: Figures of every cell.
        names: What each of them is called.
        by_axis: Comparisons, on the axes where costs are known; the first axis always.
        widths: Half the length of intervals by number of problems, of accuracies and of paired differences.
    """

    group: Group
    cells: tuple[CellSummary, ...]
    names: tuple[str, ...]
    by_axis: Mapping[str, SetComparison]
    widths: Mapping[str, Mapping[int, float]]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Accuracy against each known axis."""
        return tuple(
            Panel(
                "",
                AXES[name].title,
                tuple(
                    Line(curve.name, tuple(Point(point.cost.value, point.accuracy) for point in curve.points))
                    for curve in found.curves
                ),
            )
            for name, found in self.by_axis.items()
            if found.curves
        )

    @property
    def notes(self) -> list[str]:
        """What could not be compared; names in them are foreign."""
        return list(dict.fromkeys(note for found in self.by_axis.values() for note in found.notes))

    def tables(self) -> list[Table]:
        """All tables of the set, those with nothing in them left out."""
        first = next(iter(self.by_axis))
        tables = [
            self._cost_table(),
            equal_budget_table(self.by_axis[first].equal_budget, AXES[first]),
            self._equal_accuracy_table(
                "Cost for an equal accuracy", lambda pair: pair.over_overlap, note=EQUAL_ACCURACY_NOTE
            ),
            self._equal_accuracy_table("Cost for the accuracy asked for", lambda pair: pair.at_target),
            self._ending_table(),
            self._width_table(),
        ]
        return [table for table in tables if table.rows]

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            **self.group._asdict(),
            "cells": [cell.to_json() for cell in self.cells],
            "comparisons": {
                name: {
                    key: value for key, value in found.to_json().items() if key.startswith("equal") or key == "notes"
                }
                for name, found in self.by_axis.items()
            },
            "half_widths": {
                what: {str(count): json_number(width) for count, width in widths.items()}
                for what, widths in self.widths.items()
            },
        }

    def _cost_table(self) -> Table:
        axes = [AXES[name] for name in PLOTTED]
        rows = [
            (name, one.cell.budget, share(one.accuracy), str(one.num_problems), *(_mean(one, axis) for axis in axes))
            for name, one in zip(self.names, self.cells, strict=True)
        ]
        return Table(
            "Accuracy and mean cost of a job",
            ("policy", "budget", "accuracy [95%]", "problems", *(axis.title for axis in axes)),
            tuple(rows),
            num_names=2,
        )

    def _equal_accuracy_table(
        self, title: str, of: Callable[[EqualAccuracy], CostRatio | None], *, note: str = ""
    ) -> Table:
        by_axis = {
            name: {(pair.name, pair.baseline): one for pair in found.equal_accuracy if (one := of(pair)) is not None}
            for name, found in self.by_axis.items()
        }
        rows = []
        for pair in dict.fromkeys(pair for found in by_axis.values() for pair in found):
            ratios = [found.get(pair) for found in by_axis.values()]
            known = [one for one in ratios if one is not None]
            words = dict.fromkeys(one.status for one in known if one.status != "ok")
            cells = [UNKNOWN if one is None else ratio(one.ratio) for one in ratios]
            rows.append((*pair, *cells, accuracies_of(known[0]), str(known[0].num_problems), "; ".join(words)))
        titles = (AXES[name].title for name in by_axis)
        head = ("policy", "baseline", *titles, "at accuracies", "problems", "remark")
        return Table(f"{title}, as a ratio to the baseline", head, tuple(rows), num_names=2, note=note)

    def _ending_table(self) -> Table:
        axes = [AXES[name] for name in ("samples", "sequential_tokens", "verifier_tokens", "flops")]
        rows = [
            (
                name,
                one.cell.budget,
                *(_mean(one, axis) for axis in axes),
                ", ".join(f"{reason} {part:.0%}" for reason, part in one.stop_reasons.items()),
                f"{one.num_errors} of {len(one.cell.rows)}",
            )
            for name, one in zip(self.names, self.cells, strict=True)
        ]
        head = ("policy", "budget", *(axis.title for axis in axes), "ended by", "errors")
        return Table("How jobs ran and ended", head, tuple(rows), num_names=2)

    def _width_table(self) -> Table:
        rows = [
            (what, *(f"± {width:.3f}" for width in widths.values())) for what, widths in self.widths.items() if widths
        ]
        return Table(
            "How wide 95% intervals are by number of problems",
            ("interval of", *(f"{count:,}" for count in _COUNTS)),
            tuple(rows),
            num_names=0,
            note="Mean over the cells of this set, from problems drawn like these.",
        )


@dataclass(frozen=True, slots=True)
class Findings:
    """What is said of a benchmark.

    Attributes:
        sets: Of each set.
        target: The accuracy that costs were asked for.
        margin: How much lower an accuracy may be and still count as not worse.
    """

    sets: tuple[SetFindings, ...]
    target: float | None
    margin: float

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {"target": self.target, "margin": self.margin, "sets": [one.to_json() for one in self.sets]}


def findings_of(
    rows: Iterable[Row], *, baseline: str | None = None, target: float | None = None, margin: float = DEFAULT_MARGIN
) -> Findings:
    """Computes everything; the arguments and errors are those of `orchestrator.bench.comparison.compare`."""
    check_shares(target=target, margin=margin)
    groups = cells_of(rows)
    check_baseline(groups, baseline)
    sets = [_set_findings(group, cells, baseline, target, margin) for group, cells in groups.items()]
    return Findings(tuple(sets), target, margin)


def _set_findings(
    group: Group, cells: Sequence[Cell], baseline: str | None, target: float | None, margin: float
) -> SetFindings:
    axes = [AXES[name] for name in PLOTTED if name == PLOTTED[0] or any(cell.costs(AXES[name]) for cell in cells)]
    names = series_names(cells)
    return SetFindings(
        group,
        tuple(summary_of(cell) for cell in cells),
        tuple(names[cell.series] for cell in cells),
        {
            axis.name: compare_set(group, cells, baseline=baseline, axis=axis, target=target, margin=margin)
            for axis in axes
        },
        _widths(cells, baseline),
    )


def _widths(cells: Sequence[Cell], baseline: str | None) -> dict[str, dict[int, float]]:
    """Half the length of intervals by number of problems, the mean over cells."""
    own, baselines = series_of(cells), baselines_of(cells, baseline)
    pairs = [
        paired_problems(cell, other)
        for cell in cells
        if cell.series in baselines
        for other in own[baselines[cell.series]]
        if other.budget == cell.budget
    ]
    accuracies = [np.array(list(cell.means(is_right).values())) for cell in cells]
    differences = [ours - theirs for ours, theirs in pairs if len(ours)]
    return {
        "an accuracy": _mean_widths(accuracies, SHARES),
        "a paired difference": _mean_widths(differences, DIFFERENCES),
    }


def _mean_widths(columns: Sequence[Floats], bounds: Bounds) -> dict[int, float]:
    found = [half_widths(column, _COUNTS, bounds=bounds) for column in columns]
    return {count: fmean(widths[count] for widths in found) for count in _COUNTS} if found else {}


def _mean(cell: CellSummary, axis: Axis) -> str:
    cost = cell.costs[axis.name]
    return UNKNOWN if cost is None else axis.format(cost.value)
