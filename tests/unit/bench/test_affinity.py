"""The page of the benchmark of affinity, and how it measures balance."""

import math
from typing import Any

import pytest

from orchestrator.bench.affinity_cluster import Loads
from orchestrator.bench.affinity_page import page


def job(arm: str, problem: str, cached: int) -> dict[str, Any]:
    tokens = {"prompt_tokens": 100, "cached_tokens": cached, "recomputed_tokens": 0, "output_tokens": 50}
    return {"problem": problem, "policy": "rebase", "arm": arm, "batch": 0, "is_correct": True, "wall_s": 1.0, **tokens}


def batch(arm: str, number: int, cpu_s: float) -> dict[str, Any]:
    row = {"number": number, "policy": "rebase", "arm": arm}
    return {**row, "wall_s": 2.0, "cpu_s": cpu_s, "imbalance": 1.5}


def mix(cached: int) -> dict[str, Any]:
    row = {"calls": 10, "prompt_tokens": 1000, "cached_tokens": cached}
    return {**row, "wall_s": 1.0, "cpu_s": 0.5, "imbalance": 1.25}


@pytest.fixture
def result() -> dict[str, Any]:
    arms = {"on": 80, "off": 60}
    return {
        "machine": {
            "processor": "P",
            "cores": 2,
            "system": "Linux",
            "python": "3",
            "date": "today",
            "commit": "c",
            "load_average_1min": 0.5,
        },
        "command": "python -m orchestrator.bench.affinity",
        "replicas": 4,
        "problems": 1,
        "at_once": 3,
        "width": 16,
        "rounds": 2,
        "calls": 10,
        "jobs": [job(arm, name, cached) for arm, cached in arms.items() for name in ("p", "q", "r")],
        "batches": [batch(arm, number, cached / 10) for arm, cached in arms.items() for number in range(3)],
        "mixes": {arm: [mix(10 * cached)] * 2 for arm, cached in arms.items()},
        "counters": {arm: [{"tree_calls": 1500, "known_calls": 9}] for arm in arms},
    }


def test_costs_are_paired_and_told_as_ratios(result: dict[str, Any]):
    for counters in result["counters"].values():
        counters[0].update(missed_calls=0, moved_calls=0, spilled_calls=0, expired_trees=0)
    text = page(result)
    assert "| rebase | on | 3 | 1.000 | 100 | 80.0% | 20 |" in text
    assert "| rebase | 0.50 (0.50 to 0.50) | 1.33 (1.33 to 1.33) | 1.00 (1.00 to 1.00) |" in text
    assert "| on | 0.50 (0.50 to 0.50) | 1.00 (1.00 to 1.00) |" in text
    assert "| on | 1,500 | 9 | 0 | 0 | 0 | 0 |" in text
    assert "share 2 cores" in text
    assert "other work" not in text


def test_imbalance_is_the_fullest_replica_over_the_mean_while_there_is_work():
    assert Loads([[0, 0], [4, 0], [2, 2]]).imbalance == pytest.approx(1.5)
    assert math.isnan(Loads([[0, 0]]).imbalance)
