"""Cells of benchmarks: which rows belong together, what they cost, and what is not known."""

import json
import math
from typing import Any

import pytest

from orchestrator.bench.analysis.axes import AXES, UNKNOWN, axis_named
from orchestrator.bench.analysis.summary import Group, Series, cells_of, is_right, series_names, summarise
from orchestrator.errors import InvalidRequest, UnknownName

from .made_rows import a_row


def test_rows_that_differ_by_problem_and_seed_only_are_one_cell():
    rows = [a_row(f"p{problem}", seed=seed) for problem in range(3) for seed in range(2)]
    (cells,) = cells_of(rows).values()
    assert [len(cell.rows) for cell in cells] == [6]
    others = [a_row(**{name: "other"}) for name in ("suite", "set", "label", "model", "budget")]
    assert sum(len(cells) for cells in cells_of([*rows, *others]).values()) == 6
    assert set(cells_of([*rows, *others])) == {
        Group("s", "expression@6"),
        Group("other", "expression@6"),
        Group("s", "other"),
    }


def test_a_later_row_of_a_job_replaces_an_earlier_one():
    (summary,) = summarise([a_row(is_correct=False, error="lost"), a_row(is_correct=True)])
    assert summary.accuracy.value == 1
    assert summary.num_errors == 0


def test_budgets_are_ordered_by_their_caps_and_none_comes_last():
    budgets = ["", "tokens=10000", "steps=12", "tokens=2k", "steps=9", "tokens=500"]
    (cells,) = cells_of(a_row(budget=budget) for budget in budgets).values()
    assert [cell.budget for cell in cells] == ["tokens=500", "tokens=2k", "tokens=10000", "steps=9", "steps=12", ""]


def test_series_stay_in_order_of_appearance_and_name_their_model_where_there_are_several():
    rows = [a_row(label="b"), a_row(label="a"), a_row(label="b", budget="tokens=1")]
    (cells,) = cells_of(rows).values()
    assert [cell.series.label for cell in cells] == ["b", "b", "a"]
    assert list(series_names(cells).values()) == ["b", "a"]
    (cells,) = cells_of([*rows, a_row(label="a", model="large")]).values()
    assert series_names(cells)[Series("a", "large")] == "a on large"


def test_every_problem_counts_once_however_many_seeds_it_has():
    rows = [a_row("p0", seed=seed) for seed in range(9)] + [a_row("p1", is_correct=False)]
    (summary,) = summarise(rows)
    assert summary.accuracy.value == 0.5
    assert (summary.num_problems, summary.num_seeds) == (2, 9)


def test_a_failed_job_is_wrong_whatever_its_row_says():
    assert is_right(a_row(is_correct=True, error="engine_failed")) == 0


def test_costs_are_means_of_jobs_on_every_axis():
    usage = {
        "prompt_tokens": 10,
        "output_tokens": 30,
        "flops": 5e12,
        "effective_flops": 7e12,
        "picodollars": 2_000_000_000,
        "verifier_tokens": {"prm": 4, "judge": 6},
        "max_sequential_tokens": 12,
    }
    (summary,) = summarise([a_row("p0", usage=usage, latency_s=3.0), a_row("p1", usage={}, latency_s=1.0)])
    values = {name: cost.value for name, cost in summary.costs.items() if cost is not None}
    assert values == {
        "output_tokens": 15,
        "total_tokens": 20,
        "effective_flops": 3.5e12,
        "flops": 2.5e12,
        "usd": 0.001,
        "wall_s": 2.0,
        "sequential_tokens": 6,
        "verifier_tokens": 5,
        "verifier_calls": 0,
        "samples": 4,
    }


def test_what_was_not_measured_is_not_nothing():
    (live,) = summarise([a_row()])
    assert live.costs["usd"] is None, "a model without prices"
    assert live.costs["effective_flops"] is None, "a model of unknown size"
    assert live.costs["verifier_tokens"] is not None, "no verifier was used: that is known"
    assert live.costs["verifier_tokens"].value == 0
    (mixed,) = summarise([a_row("p0"), a_row("p1", is_replayed=True)])
    assert mixed.costs["wall_s"] is None, "a replayed job takes no time"
    assert mixed.num_replayed == 1


def test_only_known_stop_reasons_are_passed_on():
    rows = [a_row(f"p{index}", stop_reason=reason) for index, reason in enumerate(["completed"] * 3 + ["<b>", ""])]
    (summary,) = summarise(rows)
    assert summary.stop_reasons == {"completed": 0.6, "unknown": 0.4}


@pytest.mark.parametrize(
    "usage", [{"output_tokens": value} for value in ("12", -1, math.nan, math.inf, True, [], 10**400)]
)
def test_a_cost_that_is_no_number_is_refused_by_name(usage: dict[str, Any]):
    with pytest.raises(
        InvalidRequest, match=r"output_tokens must be a finite number.*problem 'p7', label 'single', seed 3"
    ):
        summarise([a_row("p7", seed=3, usage=usage)])


@pytest.mark.parametrize(
    "fields",
    [{"usage": {"verifier_tokens": {"prm": "x"}}}, {"usage": {"verifier_tokens": "x"}}, {"latency_s": math.nan}],
)
def test_other_broken_costs_are_refused_as_well(fields: dict[str, Any]):
    with pytest.raises(InvalidRequest, match="must be a finite number"):
        summarise([a_row(**fields)])


def test_no_rows_are_an_error_that_says_what_to_run():
    with pytest.raises(InvalidRequest, match="ttc bench run"):
        summarise([])


def test_a_summary_is_plain_json():
    (summary,) = summarise([a_row(params={"n": 4})])
    data = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert data["params"] == {"n": 4}
    assert data["costs"]["usd"] is None
    assert data["accuracy"]["mean"] == 1.0


def test_axes_are_found_by_name_and_written_with_enough_digits():
    with pytest.raises(UnknownName, match="output_tokens"):
        axis_named("tokens")
    tokens, flops, usd = AXES["output_tokens"], AXES["flops"], AXES["usd"]
    assert [tokens.format(cost) for cost in (0, 1.25, 12.34, 123456, math.nan)] == [
        "0",
        "1.25",
        "12.3",
        "123,456",
        UNKNOWN,
    ]
    assert flops.format(1.234e12) == "1.23e12"
    assert usd.format(0.00001234) == "1.23e-05"
