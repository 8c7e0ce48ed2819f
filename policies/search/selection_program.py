"""The binary program of ETS: which candidates to grow on, when each is worth something and branches cost their KV.

`chosen_candidates` is made for `Compute`: JSON values in and out, limits are counts. It takes out of the program what
needs no search, gives the rest to HiGHS through SciPy, and has a greedy heuristic where that ends without an optimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from orchestrator.policies.search.selection_tree import SelectionTree

MOST_PARTS = 4000
"""Of a reduced program; a larger one is left to the heuristic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionProgram:
    """Keep a set S of candidates, at least one, of the largest value (Hooper et al., 2025, arXiv:2502.13575).

    The value is the sum of gains over S, less the sum of costs of the branches above S, plus `cluster_gain` times the
    number of clusters that S touches.

    Attributes:
        branch_parents: Parent of each branch node, always an earlier one; -1 for the root, which comes first.
        branch_costs: What keeping each costs, at least 0.
        parents: The branch node that each candidate continues.
        gains: What each candidate is worth, less its own cost.
        clusters: A label for each candidate; empty if variety counts for nothing.
        cluster_gain: Worth of one more cluster, at least 0.
    """

    branch_parents: Sequence[int]
    branch_costs: Sequence[float]
    parents: Sequence[int]
    gains: Sequence[float]
    clusters: Sequence[int] = ()
    cluster_gain: float = 0.0

    def value(self, chosen: Sequence[int]) -> float:
        """The value of a set of candidates."""
        branches: set[int] = set()
        for candidate in chosen:
            branch = self.parents[candidate]
            while branch >= 0 and branch not in branches:
                branches.add(branch)
                branch = self.branch_parents[branch]
        gains = math.fsum(self.gains[candidate] for candidate in chosen)
        costs = math.fsum(self.branch_costs[branch] for branch in branches)
        covered = {self.clusters[candidate] for candidate in chosen} if self.clusters else set()
        return gains - costs + self.cluster_gain * len(covered)

    def tree(self) -> SelectionTree:
        """The program as a tree to choose from: branches, then candidates."""
        tree = SelectionTree(self.cluster_gain)
        for parent, cost in zip(self.branch_parents, self.branch_costs, strict=True):
            tree.add(parent, -cost)
        for candidate, (parent, gain) in enumerate(zip(self.parents, self.gains, strict=True)):
            labels = frozenset(self.clusters[candidate : candidate + 1])
            tree.add(parent, gain, labels, (candidate,))
        return tree

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def chosen_candidates(program: dict[str, Any], node_limit: int) -> dict[str, Any]:  # Any: JSON values
    """Solves a program.

    Args:
        program: As `SelectionProgram.to_json` gives it.
        node_limit: Most nodes of the solver's search; 0 does without the solver.

    Returns:
        ``chosen``: indices of candidates, ascending, at least one; ``note``: what decided, where it was not an optimum.
    """
    whole = SelectionProgram(**program).tree()
    found = _best(whole, node_limit, is_empty_allowed=True)
    if not found.chosen:
        found = _best(whole, node_limit, is_empty_allowed=False)
    return {"chosen": found.chosen, "note": found.note}


class _Found(NamedTuple):
    chosen: list[int]
    note: str = ""


def _best(whole: SelectionTree, node_limit: int, *, is_empty_allowed: bool) -> _Found:
    tree = whole.reduced(is_empty_allowed=is_empty_allowed)
    if len(tree) == 1:
        return _Found(tree.candidates_of({0}))
    solution = _Solution(None, f"over {node_limit} nodes")
    if len(tree) > MOST_PARTS:
        solution = _Solution(None, f"over {MOST_PARTS} parts")
    elif node_limit:
        solution = _solved(tree, node_limit, is_empty_allowed=is_empty_allowed)
    if solution.parts is not None and not solution.problem:
        return _Found(tree.candidates_of(solution.parts))
    parts, note = tree.greedy(is_empty_allowed=is_empty_allowed), f"greedy: {solution.problem}"
    if solution.parts is not None and tree.value(solution.parts) > tree.value(parts):
        parts, note = solution.parts, f"best found: {solution.problem}"
    return _Found(tree.candidates_of(parts), note)


class _Solution(NamedTuple):
    """Parts to keep, None without any; and why they may not be the best, if so."""

    parts: set[int] | None
    problem: str = ""


def _solved(tree: SelectionTree, node_limit: int, *, is_empty_allowed: bool) -> _Solution:
    """Solves the program of a tree with HiGHS.

    There is a variable for each part but the root (is it kept?) and for each cluster (is it covered?). A part needs its
    parent, and a covered cluster needs one of the parts that cover it.
    """
    import numpy as np  # here, so that what needs no solver does not wait for it
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    num_parts = len(tree) - 1
    labels = sorted(frozenset[int]().union(*tree.clusters[1:]) - tree.clusters[0])
    columns = {label: num_parts + place for place, label in enumerate(labels)}
    rows = _rows(tree, columns, is_empty_allowed=is_empty_allowed)
    entries = [(row, column, entry) for row, (terms, _) in enumerate(rows) for column, entry in terms.items()]
    row_indices, column_indices, values = zip(*entries, strict=True)
    matrix = coo_array(
        (values, (row_indices, column_indices)), shape=(len(rows), num_parts + len(columns)), dtype=float
    )
    result = milp(
        -np.array([*tree.values[1:], *[tree.cluster_gain] * len(columns)]),
        integrality=np.repeat([1, 0], [num_parts, len(columns)]),  # covers are whole where parts are
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, ub=[limit for _, limit in rows]),
        options={"node_limit": node_limit, "mip_rel_gap": 0.0},
    )
    is_over = (result.get("mip_node_count") or 0) >= node_limit  # SciPy has no status for this limit
    problem = "" if result.status == 0 else f"over {node_limit} nodes" if is_over else "the solver failed"
    if result.x is None:
        return _Solution(None, problem)
    return _Solution({0, *(1 + int(index) for index in np.flatnonzero(result.x[:num_parts] > 0.5))}, problem)


def _rows(
    tree: SelectionTree, columns: Mapping[int, int], *, is_empty_allowed: bool
) -> list[tuple[dict[int, int], int]]:
    """Constraints: entries by column, whose products with the variables may add up to at most the limit beside them."""
    rows: list[tuple[dict[int, int], int]] = []
    covers = {label: {column: 1} for label, column in columns.items()}
    for part in range(1, len(tree)):
        if parent := tree.parents[part]:
            rows.append(({part - 1: 1, parent - 1: -1}, 0))
        for label in tree.clusters[part]:
            covers[label][part - 1] = -1
    rows += [(terms, 0) for terms in covers.values()]
    if not is_empty_allowed and not tree.candidates[0]:
        rows.append(({part - 1: -1 for part in range(1, len(tree)) if tree.candidates[part]}, -1))
    return rows
