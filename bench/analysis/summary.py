"""The cells of a benchmark, which are jobs that differ by problem and seed only: their accuracy and what they cost."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from orchestrator.bench.analysis.axes import AXES, Axis
from orchestrator.bench.analysis.estimates import SHARES, Estimate, mean_estimate
from orchestrator.bench.runs.rows import Row
from orchestrator.budget import Budget
from orchestrator.errors import InvalidRequest
from orchestrator.job import StopReason

Job = tuple[str, int]
"""Problem and seed: which job of a cell."""


class Series(NamedTuple):
    """What is drawn as one line and compared as one: a policy with its parameters, on a model, over budgets."""

    label: str
    model: str


class Group(NamedTuple):
    """What can be compared: cells of one problem set in one suite."""

    suite: str
    set: str


@dataclass(frozen=True, slots=True)
class Cell:
    """Jobs of one policy on one set, model and budget; at least one.

    Attributes:
        group: Suite and problem set.
        series: Label and model.
        budget: Caps in the command line's form; empty for none.
        rows: The jobs' rows.
    """

    group: Group
    series: Series
    budget: str
    rows: Mapping[Job, Row]
    _known: dict[Callable[[Row], float], dict[str, float]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def problems(self) -> set[str]:
        """Ids of the problems."""
        return {problem for problem, _ in self.rows}

    def means(self, measure: Callable[[Row], float], *, jobs: Iterable[Job] | None = None) -> dict[str, float]:
        """Each problem's mean over its seeds.

        Args:
            measure: What is measured of a job.
            jobs: Which of them count; all by default.
        """
        if jobs is not None:
            return self._measured(measure, jobs)
        if measure not in self._known:
            self._known[measure] = self._measured(measure, self.rows)
        return self._known[measure]

    def _measured(self, measure: Callable[[Row], float], jobs: Iterable[Job]) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for job in jobs:
            values.setdefault(job[0], []).append(measure(self.rows[job]))
        return {problem: fmean(numbers) for problem, numbers in values.items()}

    def costs(self, axis: Axis) -> dict[str, float] | None:
        """Each problem's mean cost; None where it is not known for the whole cell."""
        costs = self.means(axis.spent)
        is_known = not any(map(math.isnan, costs.values())) and (any(costs.values()) or not axis.is_zero_unknown)
        return costs if is_known else None


def is_right(row: Row) -> float:
    """1 for a right answer, 0 for a wrong one and for a job that failed."""
    return float(row.is_correct and row.error is None)


def cells_of(rows: Iterable[Row]) -> dict[Group, list[Cell]]:
    """The cells by suite and set: series in order of appearance, then budgets from small to large.

    A later row of the same job replaces an earlier one.

    Raises:
        InvalidRequest: There are no rows.
    """
    found: dict[Group, dict[tuple[Series, str], dict[Job, Row]]] = {}
    for row in rows:
        cells = found.setdefault(Group(row.suite, row.set), {})
        jobs = cells.setdefault((Series(row.label, row.model), row.budget), {})
        jobs[row.problem, row.seed] = row
    if not found:
        raise InvalidRequest("there are no rows to report on; run the suite first (ttc bench run)", field="rows")
    return {group: _in_order(group, cells) for group, cells in found.items()}


def _in_order(group: Group, cells: Mapping[tuple[Series, str], Mapping[Job, Row]]) -> list[Cell]:
    order = list(dict.fromkeys(series for series, _ in cells))
    keys = sorted(cells, key=lambda key: (order.index(key[0]), budget_order(key[1])))
    return [Cell(group, series, budget, cells[series, budget]) for series, budget in keys]


def series_of(cells: Sequence[Cell]) -> dict[Series, list[Cell]]:
    """The cells of each series, in the order of `cells_of`."""
    return {series: list(own) for series, own in groupby(cells, key=lambda cell: cell.series)}


def series_names(cells: Iterable[Cell]) -> dict[Series, str]:
    """The label of each series; with its model where there are several models."""
    found = list(dict.fromkeys(cell.series for cell in cells))
    is_one_model = len({series.model for series in found}) == 1
    return {series: series.label if is_one_model else f"{series.label} on {series.model}" for series in found}


def budget_order(budget: str) -> tuple[object, ...]:
    """Sorts budgets by their caps, such that can't be read after them by the numbers in them, and no budget last."""
    if not budget:
        return (2, "")
    try:
        caps = Budget.parse(budget).to_json()
    except InvalidRequest:
        return (1, [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in _PARTS.findall(budget)])
    return (0, sorted(caps), [caps[name] for name in sorted(caps)])


_PARTS = re.compile(r"[0-9]+|[^0-9]+")


@dataclass(frozen=True, slots=True)
class CellSummary:
    """What reports show of a cell.

    Attributes:
        cell: The cell.
        num_problems: Problems that have at least one finished job.
        num_seeds: Seeds in use.
        accuracy: Over problems, each the mean of its seeds; failed jobs are wrong.
        costs: Mean cost of a job by axis; None where it is not known.
        stop_reasons: Share of jobs by why they ended: values of `StopReason`, or ``unknown``.
        num_errors: Jobs that failed.
        num_replayed: Jobs whose samples were drawn from a pool.
    """

    cell: Cell
    num_problems: int
    num_seeds: int
    accuracy: Estimate
    costs: Mapping[str, Estimate | None]
    stop_reasons: Mapping[str, float]
    num_errors: int
    num_replayed: int

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """All of it as JSON values."""
        cell = self.cell
        first = next(iter(cell.rows.values()))
        return {
            **cell.group._asdict(),
            **cell.series._asdict(),
            "budget": cell.budget,
            "policy": first.policy,
            "params": first.params,
            "num_jobs": len(cell.rows),
            "num_problems": self.num_problems,
            "num_seeds": self.num_seeds,
            "num_errors": self.num_errors,
            "num_replayed": self.num_replayed,
            "accuracy": self.accuracy.to_json(),
            "costs": {name: None if cost is None else cost.to_json() for name, cost in self.costs.items()},
            "stop_reasons": dict(self.stop_reasons),
        }


def summary_of(cell: Cell) -> CellSummary:
    """The figures of one cell.

    Raises:
        InvalidRequest: A row holds a cost that is no number.
    """
    reasons = Counter(_known_reason(row.stop_reason) for row in cell.rows.values())
    return CellSummary(
        cell=cell,
        num_problems=len(cell.problems),
        num_seeds=len({seed for _, seed in cell.rows}),
        accuracy=mean_estimate(list(cell.means(is_right).values()), bounds=SHARES),
        costs={axis.name: _mean_cost(cell.costs(axis)) for axis in AXES.values()},
        stop_reasons={reason: round(count / len(cell.rows), 4) for reason, count in reasons.most_common()},
        num_errors=sum(row.error is not None for row in cell.rows.values()),
        num_replayed=sum(row.is_replayed for row in cell.rows.values()),
    )


def summarise(rows: Iterable[Row]) -> list[CellSummary]:
    """The figures of all cells, group by group in the order of `cells_of`.

    Raises:
        InvalidRequest: There are no rows, or a row holds a cost that is no number.
    """
    return [summary_of(cell) for cells in cells_of(rows).values() for cell in cells]


def _known_reason(reason: str) -> str:
    return reason if reason in set(StopReason) else "unknown"


def _mean_cost(costs: Mapping[str, float] | None) -> Estimate | None:
    return None if costs is None else mean_estimate(list(costs.values()))
