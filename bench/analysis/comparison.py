"""Policies against a baseline on each problem set: `compare`, what it found, and the tables that show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.bench.analysis.axes import AXES, UNKNOWN, Axis, axis_named
from orchestrator.bench.analysis.curves import CostRatio
from orchestrator.bench.analysis.estimates import DEFAULT_MARGIN, SHARES, Estimate, mean_estimate
from orchestrator.bench.analysis.pairing import EqualAccuracy, EqualBudget, baselines_of, equal_accuracy, equal_budget
from orchestrator.bench.analysis.summary import Cell, Group, cells_of, is_right, series_names, series_of
from orchestrator.bench.analysis.tables import Table, difference, ratio, share, shown
from orchestrator.bench.runs.rows import Row
from orchestrator.errors import InvalidRequest, UnknownName


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A policy at one budget, over all problems it was run on there."""

    budget: str
    cost: Estimate
    accuracy: Estimate

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {"budget": self.budget, "cost": self.cost.to_json(), "accuracy": self.accuracy.to_json()}


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy against cost on one axis, a point for each budget."""

    name: str
    points: tuple[CurvePoint, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {"name": self.name, "points": [point.to_json() for point in self.points]}


@dataclass(frozen=True, slots=True)
class SetComparison:
    """All that is compared on one problem set.

    Attributes:
        group: Suite and problem set.
        curves: One for each policy whose cost is known.
        equal_budget: One for each budget of each policy but the baseline.
        equal_accuracy: One for each policy but the baseline.
        notes: What could not be compared, and why.
    """

    group: Group
    curves: tuple[Curve, ...]
    equal_budget: tuple[EqualBudget, ...]
    equal_accuracy: tuple[EqualAccuracy, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            **self.group._asdict(),
            "curves": [curve.to_json() for curve in self.curves],
            "equal_budget": [pair.to_json() for pair in self.equal_budget],
            "equal_accuracy": [pair.to_json() for pair in self.equal_accuracy],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Policies against a baseline on every problem set, with costs on one axis."""

    axis: Axis
    target: float | None
    margin: float
    sets: tuple[SetComparison, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        return {
            "axis": self.axis.name,
            "target": self.target,
            "margin": self.margin,
            "sets": [one.to_json() for one in self.sets],
        }

    def lines(self) -> list[str]:
        """Tables for a terminal."""
        lines = []
        for one in self.sets:
            lines += [f"{shown(one.group.set)} (suite {shown(one.group.suite)}); cost: {self.axis.title}", ""]
            tables = (
                curve_table(one.curves, self.axis),
                equal_budget_table(one.equal_budget, self.axis),
                equal_accuracy_table(one.equal_accuracy, self.axis),
            )
            lines += [line for table in tables if table.rows for line in table.text()]
            lines += [*one.notes, ""] if one.notes else []
        return lines[:-1]


def compare(
    rows: Iterable[Row],
    *,
    baseline: str | None = None,
    axis: str = "output_tokens",
    target: float | None = None,
    margin: float = DEFAULT_MARGIN,
) -> Comparison:
    """Compares every policy with a baseline.

    Args:
        rows: Jobs of any suites and sets; each set is compared by itself.
        baseline: A label; with its model (``LABEL on MODEL``) for one that all models are compared with. By default the
            policy `single`, else the first label.
        axis: What cost means; a name of `AXES`.
        target: An accuracy at which the costs are compared besides.
        margin: How much lower an accuracy may be and still count as not worse.

    Raises:
        InvalidRequest: There are no rows, or the target or the margin is out of range, or no cost is known on the axis.
        UnknownName: There is no such axis or label.
    """
    known = axis_named(axis)
    check_shares(target=target, margin=margin)
    groups = cells_of(rows)
    check_baseline(groups, baseline)
    sets = tuple(
        compare_set(group, cells, baseline=baseline, axis=known, target=target, margin=margin)
        for group, cells in groups.items()
    )
    if not any(one.curves for one in sets):
        able = [one.name for one in AXES.values() if any(cell.costs(one) for own in groups.values() for cell in own)]
        raise InvalidRequest(
            f"no row says what a job cost in {known.title} (replayed jobs have no wall-clock time, models without "
            f"prices cost no dollars); axes that have costs: {', '.join(able)}",
            field="axis",
            value=axis,
        )
    return Comparison(known, target, margin, sets)


def check_shares(**shares: float | None) -> None:
    """Raises `InvalidRequest` for one that is given and not above 0 and at most 1."""
    for name, value in shares.items():
        if value is not None and not 0 < value <= 1:
            raise InvalidRequest(f"{name} is a share above 0 and at most 1, not {value!r}", field=name, value=value)


def check_baseline(groups: Mapping[Group, Sequence[Cell]], baseline: str | None) -> None:
    """Raises `UnknownName` unless some set has the baseline."""
    names = {name: series.label for cells in groups.values() for series, name in series_names(cells).items()}
    if baseline is not None and baseline not in names and baseline not in names.values():
        raise UnknownName(kind="label", name=baseline, known={shown(label) for label in names.values()})


def compare_set(
    group: Group, cells: Sequence[Cell], *, baseline: str | None, axis: Axis, target: float | None, margin: float
) -> SetComparison:
    """The comparison on one problem set."""
    names, baselines = series_names(cells), baselines_of(cells, baseline)
    own = series_of(cells)
    notes = [] if baselines or len(own) == 1 else [f"No baseline {shown(baseline or '')!r} on this set."]
    curves = {series: _curve(names[series], own[series], axis) for series in own}
    notes += [
        f"{shown(curve.name)}: {axis.title} not known at {len(own[series]) - len(curve.points)} of "
        f"{len(own[series])} budgets."
        for series, curve in curves.items()
        if len(curve.points) < len(own[series])
    ]
    pairs = [(series, other) for series, other in baselines.items() if curves[series].points and curves[other].points]
    return SetComparison(
        group=group,
        curves=tuple(curve for curve in curves.values() if curve.points),
        equal_budget=equal_budget(cells, baselines, axis=axis, margin=margin),
        equal_accuracy=tuple(
            equal_accuracy(own[series], own[other], (names[series], names[other]), axis=axis, target=target)
            for series, other in pairs
        ),
        notes=tuple(notes),
    )


def _curve(name: str, cells: Sequence[Cell], axis: Axis) -> Curve:
    points = [
        CurvePoint(
            cell.budget,
            mean_estimate(list(costs.values())),
            mean_estimate(list(cell.means(is_right).values()), bounds=SHARES),
        )
        for cell in cells
        if (costs := cell.costs(axis)) and any(costs.values())
    ]
    return Curve(name, tuple(points))


def curve_table(curves: Sequence[Curve], axis: Axis) -> Table:
    """Accuracy and cost of every policy at every budget."""
    rows = [
        (curve.name, point.budget, share(point.accuracy), axis.format(point.cost.value))
        for curve in curves
        for point in curve.points
    ]
    return Table(
        f"Accuracy against {axis.title}", ("policy", "budget", "accuracy", axis.title), tuple(rows), num_names=2
    )


def equal_budget_table(pairs: Sequence[EqualBudget], axis: Axis) -> Table:
    """Differences in accuracy, and ratios of costs, at an equal budget."""
    rows = [
        (
            pair.name,
            pair.budget,
            _baseline(pair),
            difference(pair.difference.estimate),
            f"{pair.difference.worst:+.3f}" if pair.difference.num_problems else UNKNOWN,
            pair.difference.verdict,
            UNKNOWN if pair.cost_ratio is None else ratio(pair.cost_ratio),
            str(pair.difference.num_problems),
        )
        for pair in pairs
    ]
    return Table(
        "Difference in accuracy to the baseline at an equal budget",
        ("policy", "budget", "baseline", "difference", "above", "verdict", "cost ratio", "problems"),
        tuple(rows),
        num_names=3,
        note='Paired by problem and seed. The difference is above what "above" says with one-sided 95% confidence. '
        f"The cost ratio is of {axis.title}; below 1 the policy is cheaper.",
    )


def equal_accuracy_table(pairs: Sequence[EqualAccuracy], axis: Axis) -> Table:
    """Ratios of costs at an equal accuracy."""
    targets = [pair.at_target for pair in pairs if pair.at_target]
    rows = [
        (
            pair.name,
            pair.baseline,
            ratio(pair.over_overlap.ratio),
            accuracies_of(pair.over_overlap),
            *(() if pair.at_target is None else _target_cells(pair.at_target, axis)),
            str(pair.over_overlap.num_problems),
            _remark(pair),
        )
        for pair in pairs
    ]
    extra = (f"ratio at {accuracies_of(targets[0])}", "cost there", "baseline's cost") if targets else ()
    return Table(
        f"Cost for an equal accuracy, as a ratio of {axis.title} to the baseline",
        ("policy", "baseline", "cost ratio", "at accuracies", *extra, "problems", "remark"),
        tuple(rows),
        num_names=2,
        note=EQUAL_ACCURACY_NOTE,
    )


EQUAL_ACCURACY_NOTE = (
    "Below 1 the policy is cheaper. Geometric mean over the accuracies that both curves pass through (made monotone, "
    "interpolated over the logarithm of cost); an end at 0 or infinity is one that these problems do not bound."
)


def _remark(pair: EqualAccuracy) -> str:
    """What has to be said beside the ratios."""
    remarks = [] if pair.over_overlap.status == "ok" else [pair.over_overlap.status]
    if pair.at_target is not None and pair.at_target.status not in {"ok", pair.over_overlap.status}:
        remarks.append(f"{accuracies_of(pair.at_target)}: {pair.at_target.status}")
    return "; ".join(remarks)


def accuracies_of(found: CostRatio) -> str:
    """The accuracies that a ratio of costs was taken at."""
    if found.accuracies is None:
        return UNKNOWN
    low, high = found.accuracies
    return f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"


def _baseline(pair: EqualBudget) -> str:
    is_same = pair.budget == pair.baseline_budget
    return pair.baseline if is_same else f"{pair.baseline} ({pair.baseline_budget or 'no budget'})"


def _target_cells(found: CostRatio, axis: Axis) -> tuple[str, str, str]:
    return ratio(found.ratio), axis.format(found.our_cost), axis.format(found.their_cost)
