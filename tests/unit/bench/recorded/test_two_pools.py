"""A suite that replays two models whose pools hold different problems of one set."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench.recorded.pool import PoolWriter
from orchestrator.bench.runs.scenarios import Wish, open_scenarios
from orchestrator.bench.runs.suite import read_suite
from orchestrator.config import Settings
from orchestrator.errors import InvalidRequest

from .pools import a_header, a_problem, a_sample

SUITE = """
name = "pair"
budgets = ["tokens=10"]
[[sets]]
pool = "small.pool.jsonl"
large = "pool:large.pool.jsonl"
[[policies]]
policy = "cascade"
"""


def written(path: Path, questions: str) -> None:
    writer = PoolWriter(path, a_header(num_samples=1))
    for question in questions:
        writer.append(a_problem(question, [a_sample("=4", answer="4")]))


def test_problems_that_both_pools_hold_are_asked(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE)
    written(tmp_path / "small", "abcd")
    written(tmp_path / "large", "dbx")
    (scenario,) = open_scenarios(read_suite(tmp_path / "suite.toml"), Wish(), Settings())
    assert [problem.text for problem in scenario.problems] == ["b", "d"]


def test_pools_without_a_common_problem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE)
    written(tmp_path / "small", "ab")
    written(tmp_path / "large", "xy")
    with pytest.raises(InvalidRequest, match="no problem in common") as caught:
        open_scenarios(read_suite(tmp_path / "suite.toml"), Wish(), Settings())
    assert caught.value.field == "sets"
