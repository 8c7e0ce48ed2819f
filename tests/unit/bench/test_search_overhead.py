"""What is made of the journals of searches: time by kind of action, per node, and how it grows."""

import pytest

from orchestrator.bench.search_overhead import A_PROGRAM, Costs, growth, page
from orchestrator.store import JournalRow

PROGRAM = {
    "type": "Compute",
    "fn": "orchestrator.policies.search.selection_program:chosen_candidates",
    "args": [A_PROGRAM.to_json(), 500],
}


def done(seq: int, action: dict, t: float) -> JournalRow:
    return JournalRow(seq, "done", {"a": seq, "action": action, "outcome": {}, "t": t})


def costs_of_a_job() -> Costs:
    costs = Costs(num_jobs=1, num_nodes=10, loop_cpu_s=0.02)
    costs.count(
        [
            JournalRow(0, "begin", {"a": 0, "action": {"type": "Expand"}}),
            done(1, {"type": "Expand"}, 0.5),
            done(2, {"type": "Score"}, 0.75),
            done(3, PROGRAM, 0.76),
            done(4, {"type": "Release"}, 0.77),
            done(5, {"type": "Expand"}, 1.27),
        ]
    )
    costs.num_levels = costs.calls["generation"]
    return costs


def test_time_goes_to_the_action_that_was_waited_for():
    summary = costs_of_a_job().summary()
    assert summary["wall_ms_per_node"] == pytest.approx({"generation": 100, "rewards": 25, "program": 1, "release": 1})
    assert summary["own_ms_per_node"] == pytest.approx({"program": 1, "clustering": 0, "event_loop": 2})
    assert summary["own_share_of_generation"] == pytest.approx(0.03)
    assert summary["levels"] == 2


def test_programs_are_computed_once_more_to_count_their_cpu_time():
    costs = costs_of_a_job()
    assert len(costs.cpu_s["program"]) == 1
    assert costs.cpu_s["program"][0] > 0
    assert costs.num_settled == 0, "this one takes the solver"


def test_growth_is_the_exponent_of_the_width():
    assert growth([16, 64, 256], [2 * width**1.5 for width in (16, 64, 256)]) == pytest.approx(1.5)
    assert growth([16], [1.0]) is None
    assert growth([16, 64], [1.0, 0.0]) is None


def test_the_page_shows_a_row_for_each_width_and_the_growth():
    facts = {"processor": "p", "cores": 2, "system": "s", "python": "3", "date": "d", "commit": "c"}
    text = page(
        {
            "machine": {**facts, "load_average_1min": 1.0},
            "models": {"small": "lab:small", "verifier": "lab:prm"},
            "sets": ["expression@10"],
            "by_width": {16: costs_of_a_job().summary(), 64: costs_of_a_job().summary()},
            "growth_exponent": {"own": -0.5, "program": None},
            "first_call_s": {"first": 1.5, "next": 0.004},
        }
    )
    assert "| 16 | 1 | 2 | 10 | 100.00 | 25.00 | 0.00 | 1.00 | 3.00 | 3% |" in text
    assert "own code grows with the width to the power -0.50" in text
    assert "the program grows" not in text
