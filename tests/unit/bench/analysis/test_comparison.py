"""Policies against a baseline: the right pairs, the right ratios, and plain words where there is nothing to compare."""

import json
import math

import pytest

from orchestrator.bench.analysis.comparison import compare
from orchestrator.bench.analysis.pairing import baselines_of, paired_jobs
from orchestrator.bench.analysis.summary import Cell, Series, cells_of
from orchestrator.errors import InvalidRequest, UnknownName

from .made_rows import a_row, drawn_rows


def cells(*rows: object) -> list[Cell]:
    (found,) = cells_of(rows).values()  # type: ignore[arg-type]
    return found


def test_a_policy_at_half_the_price_needs_half_the_tokens_for_equal_accuracy():
    comparison = compare(drawn_rows({"base": 1.0, "cheap": 0.5}), baseline="base", target=0.6)
    (pair,) = comparison.sets[0].equal_accuracy
    assert (pair.name, pair.baseline) == ("cheap", "base")
    for found in (pair.over_overlap, pair.at_target):
        assert found is not None
        assert found.status == "ok"
        assert found.num_problems == 120
        assert found.ratio.low < 0.5 < found.ratio.high
        assert found.ratio.high / found.ratio.low < 2
    assert pair.over_overlap.ratio.value == pytest.approx(0.5, rel=0.15)
    assert len(pair.at_levels) == 3


def test_prices_show_at_equal_budgets_too():
    comparison = compare(drawn_rows({"base": 1.0, "cheap": 0.5}), baseline="base")
    pairs = comparison.sets[0].equal_budget
    assert [pair.budget for pair in pairs] == ["tokens=500", "tokens=1000", "tokens=2000", "tokens=4000"]
    for pair in pairs:
        assert pair.cost_ratio is not None
        assert pair.cost_ratio.value == pytest.approx(0.5, rel=0.05)
        assert pair.cost_ratio.half_width < 0.02
        assert pair.difference.estimate.low <= 0 <= pair.difference.estimate.high


def test_a_target_that_a_policy_misses_is_said_to_be_missed():
    rows = [a_row(f"p{index}", label="base", is_correct=index < 8) for index in range(10)]
    rows += [a_row(f"p{index}", label="weak", is_correct=index < 3) for index in range(10)]
    comparison = compare(rows, baseline="base", target=0.8)
    (pair,) = comparison.sets[0].equal_accuracy
    assert pair.at_target is not None
    assert pair.at_target.status == "not reached"
    assert pair.at_target.our_cost == math.inf
    assert pair.over_overlap.status == "no accuracy in common: never as high as the baseline"
    assert "not reached" in "\n".join(comparison.lines())


def test_jobs_are_paired_by_problem_and_seed():
    ours, theirs = cells(
        *(a_row(problem, seed=seed) for problem, seed in [("a", 0), ("a", 1), ("b", 0), ("c", 5)]),
        *(a_row(problem, label="x", seed=seed) for problem, seed in [("a", 1), ("a", 2), ("c", 6), ("d", 0)]),
    )
    assert paired_jobs(ours, theirs) == ({("a", 1), ("c", 5)}, {("a", 1), ("c", 6)})


def test_policies_without_a_common_problem_are_not_compared():
    comparison = compare([a_row("a", label="base"), a_row("b", label="x")], baseline="base", target=0.5)
    (one,) = comparison.sets
    assert one.equal_budget[0].difference.verdict == "no common problems"
    assert one.equal_budget[0].cost_ratio is None
    assert one.equal_accuracy[0].over_overlap.status == "no common problems"
    json.dumps(comparison.to_json(), allow_nan=False)
    assert "no common problems" in "\n".join(comparison.lines())


def test_one_problem_gives_no_false_certainty():
    comparison = compare([a_row("a", label="base"), a_row("a", label="x")], baseline="base")
    (one,) = comparison.sets
    assert one.equal_budget[0].difference.verdict == "undecided"
    assert one.equal_accuracy[0].over_overlap.ratio == (1.0, 0.0, math.inf)


def test_the_baseline_is_single_unless_it_is_named():
    found = cells(a_row(label="vote"), a_row(label="one sample", policy="single"), a_row(label="best"))
    assert {series.label: other.label for series, other in baselines_of(found, None).items()} == {
        "vote": "one sample",
        "best": "one sample",
    }
    assert {other.label for other in baselines_of(found, "best").values()} == {"best"}
    without = cells(a_row(label="vote"), a_row(label="best"))
    assert baselines_of(without, None) == {Series("best", "small"): Series("vote", "small")}


def test_each_model_has_its_own_baseline_unless_one_of_them_is_named():
    found = cells(*(a_row(label=label, model=model) for label in ("single", "vote") for model in ("small", "large")))
    assert {series: other.model for series, other in baselines_of(found, "single").items()} == {
        Series("vote", "small"): "small",
        Series("vote", "large"): "large",
    }
    one = baselines_of(found, "single on large")
    assert set(one.values()) == {Series("single", "large")}
    assert Series("single", "small") in one


def test_a_baseline_with_one_budget_is_compared_at_every_budget():
    rows = [a_row(f"p{index}", budget="") for index in range(5)]
    rows += [a_row(f"p{index}", label="x", budget=f"tokens={cap}") for index in range(5) for cap in (100, 200)]
    pairs = compare(rows).sets[0].equal_budget
    assert [(pair.budget, pair.baseline_budget) for pair in pairs] == [("tokens=100", ""), ("tokens=200", "")]
    assert "single (no budget)" in "\n".join(compare(rows).lines())


def test_sets_are_compared_by_themselves_and_one_without_the_baseline_says_so():
    rows = [a_row(label="base"), a_row(label="x"), a_row(label="x", set="other"), a_row(label="y", set="other")]
    first, second = compare(rows, baseline="base").sets
    assert len(first.equal_budget) == 1
    assert second.equal_budget == ()
    assert second.notes == ("No baseline 'base' on this set.",)


def test_policies_without_costs_on_the_axis_are_named():
    rows = [
        a_row(f"p{index}", label=label, is_replayed=label == "pool")
        for index in range(3)
        for label in ("single", "pool")
    ]
    (one,) = compare(rows, axis="wall_s").sets
    assert [curve.name for curve in one.curves] == ["single"]
    assert one.notes == ("pool: wall-clock seconds not known at 1 of 1 budgets.",)
    assert len(one.equal_budget) == 1


def test_an_axis_that_nothing_was_measured_on_is_refused_with_those_that_were():
    with pytest.raises(InvalidRequest, match=r"US dollars.*axes that have costs: output_tokens, total_tokens, wall_s"):
        compare([a_row(label="single"), a_row(label="x")], axis="usd")


@pytest.mark.parametrize("target", [0.0, -1.0, 1.5, 60, math.nan])
def test_a_target_that_is_no_share_is_refused(target: float):
    with pytest.raises(InvalidRequest, match="target is a share"):
        compare([a_row()], target=target)


def test_unknown_baselines_and_axes_are_refused_with_those_that_exist():
    with pytest.raises(UnknownName, match="unknown label 'y'; known: single, x"):
        compare([a_row(), a_row(label="x")], baseline="y")
    with pytest.raises(UnknownName, match="unknown axis"):
        compare([a_row()], axis="watts")


def test_the_lines_state_the_axis_and_hold_no_control_characters():
    rows = drawn_rows({"base": 1.0, "evil\x1b[31m\n": 0.5}, num_problems=20, num_seeds=1)
    lines = compare(rows, baseline="base", axis="effective_flops", target=0.5).lines()
    text = "\n".join(lines)
    assert "cost: effective FLOPs" in lines[0]
    assert "as a ratio of effective FLOPs to the baseline" in text
    assert "ratio at 0.500" in text
    assert "\x1b" not in text
    assert not any(char in line for line in lines for char in "\n\r\t")


def test_a_lone_policy_is_shown_and_compared_with_nothing():
    (one,) = compare([a_row()]).sets
    assert len(one.curves) == 1
    assert (one.equal_budget, one.equal_accuracy, one.notes) == ((), (), ())
