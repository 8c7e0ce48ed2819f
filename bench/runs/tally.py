"""What came of each cell of a run (a strategy on a set of problems, under a budget) in a few numbers.

Intervals and comparisons are made by `orchestrator.bench.analysis`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.bench.runs.plan import Plan
from orchestrator.bench.runs.rows import Row


class CellKey(NamedTuple):
    """Which cell."""

    set: str
    model: str
    label: str
    budget: str


@dataclass(slots=True)
class Cell:
    """Sums over the jobs of a cell."""

    num_jobs: int = 0
    num_correct: int = 0
    num_failed: int = 0
    output_tokens: int = 0

    def count(self, row: Row) -> None:
        """Adds a job."""
        self.num_jobs += 1
        self.num_correct += row.is_correct
        self.num_failed += row.error is not None
        self.output_tokens += row.usage.get("output_tokens", 0)

    @property
    def accuracy(self) -> float:
        """Share of right answers, from 0 to 1; failed jobs count as wrong."""
        return self.num_correct / self.num_jobs

    @property
    def mean_output_tokens(self) -> float:
        """Per job."""
        return self.output_tokens / self.num_jobs


def cells(plan: Plan, rows: Iterable[Row]) -> dict[CellKey, Cell]:
    """The cells of a plan that have rows, in its order."""
    found = {
        CellKey(scenario.problem_set.name, scenario.model, strategy.label, budget): Cell()
        for scenario in plan.scenarios
        for strategy in plan.suite.strategies
        for budget in plan.suite.budgets
    }
    for row in rows:
        cell = found.get(CellKey(row.set, row.model, row.label, row.budget))
        if cell is not None and row.suite == plan.suite.name:
            cell.count(row)
    return {key: cell for key, cell in found.items() if cell.num_jobs}
