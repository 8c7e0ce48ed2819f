"""The binary program of ETS: its optimum on small trees by brute force, and what decides where there is none."""

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.search.selection_program import MOST_PARTS, SelectionProgram, chosen_candidates
from orchestrator.policies.search.selection_tree import SelectionTree

WORTHS = st.sampled_from([0.0, 0.1, 0.25]) | st.floats(-0.6, 0.6)
COSTS = st.sampled_from([0.0, 0.1]) | st.floats(0, 0.6)
SOLVER = 500


@st.composite
def programs(draw: st.DrawFn) -> SelectionProgram:
    """Trees of up to 6 branches and 7 candidates, clustered or not; some branches may hold no candidate."""
    num_branches, num_candidates = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    labels = st.lists(st.integers(0, 3), min_size=num_candidates, max_size=num_candidates)
    return SelectionProgram(
        branch_parents=[-1, *(draw(st.integers(0, branch - 1)) for branch in range(1, num_branches))],
        branch_costs=[draw(COSTS) for _ in range(num_branches)],
        parents=[draw(st.integers(0, num_branches - 1)) for _ in range(num_candidates)],
        gains=[draw(WORTHS) for _ in range(num_candidates)],
        clusters=draw(st.just([]) | labels),
        cluster_gain=draw(COSTS),
    )


def brute_force(program: SelectionProgram) -> float:
    """The best value of any set of candidates that is not empty."""
    candidates = range(len(program.parents))
    return max(
        program.value(chosen) for size in range(1, len(candidates) + 1) for chosen in combinations(candidates, size)
    )


def two_of_a_kind(*, branch_cost: float = 0.3, cluster_gain: float = 0.5) -> SelectionProgram:
    """Two branches that cover the same two clusters; neither pays for itself, and only one of them is worth it."""
    return SelectionProgram(
        branch_parents=[-1, 0, 0],
        branch_costs=[0.1, branch_cost, branch_cost],
        parents=[1, 1, 2, 2],
        gains=[-0.02, -0.02, -0.01, -0.02],
        clusters=[0, 1, 0, 1],
        cluster_gain=cluster_gain,
    )


def set_cover(num_branches: int) -> SelectionProgram:
    """Branches that each cover 4 of as many clusters, of which it takes 3 to pay for one."""
    rng = random.Random(3)
    return SelectionProgram(
        branch_parents=[-1] + [0] * num_branches,
        branch_costs=[0.0] + [1.0] * num_branches,
        parents=[branch for branch in range(1, num_branches + 1) for _ in range(4)],
        gains=[-0.001] * (4 * num_branches),
        clusters=[cluster for _ in range(num_branches) for cluster in rng.sample(range(num_branches), 4)],
        cluster_gain=0.45,
    )


@settings(max_examples=80, deadline=None)
@given(program=programs())
def test_it_finds_the_optimum_that_brute_force_finds(program: SelectionProgram):
    found = chosen_candidates(program.to_json(), SOLVER)
    assert found["note"] == ""
    assert program.value(found["chosen"]) == pytest.approx(brute_force(program), abs=2e-6)  # HiGHS's absolute gap


@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_the_heuristic_always_chooses_something_and_never_beats_the_optimum(program: SelectionProgram):
    found = chosen_candidates(program.to_json(), 0)
    assert found["chosen"] == sorted(set(found["chosen"]))
    assert set(found["chosen"]) <= set(range(len(program.parents)))
    assert found["chosen"]
    assert program.value(found["chosen"]) <= brute_force(program) + 1e-9


@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_what_is_left_after_reducing_is_worth_as_much(program: SelectionProgram):
    """The best parts of the reduced tree, and of the whole, by brute force over parts."""
    tree = program.tree().reduced(is_empty_allowed=False)
    sets = [
        {0, *parts}
        for size in range(len(tree))
        for parts in combinations(range(1, len(tree)), size)
        if all(tree.parents[part] in {0, *parts} for part in parts)
    ]
    choices = [tree.candidates_of(parts) for parts in sets]
    best = max(program.value(chosen) for chosen in choices if chosen)
    assert best == pytest.approx(brute_force(program), abs=1e-9)


def test_the_heuristic_counts_the_branches_on_the_way():
    tree = SelectionTree(0.0)
    tree.add(-1, 0.0)
    for branch_value, gain in ((-1.0, 0.6), (-0.2, 0.5)):
        tree.add(0, branch_value)
        tree.add(len(tree) - 1, gain, candidates=(len(tree),))
    assert tree.greedy(is_empty_allowed=True) == {0, 3, 4}


def test_of_two_branches_of_a_kind_one_is_kept():
    found = chosen_candidates(two_of_a_kind().to_json(), SOLVER)
    assert found == {"chosen": [2, 3], "note": ""}


def test_both_are_kept_where_nothing_costs_anything_and_both_are_worth_something():
    program = SelectionProgram(branch_parents=[-1, 0], branch_costs=[0, 0], parents=[0, 1], gains=[0.7, 0.3])
    assert chosen_candidates(program.to_json(), SOLVER)["chosen"] == [0, 1]


def test_one_candidate_is_kept_however_little_it_is_worth():
    program = SelectionProgram(branch_parents=[-1], branch_costs=[5], parents=[0], gains=[-3])
    for node_limit in (0, SOLVER):
        assert chosen_candidates(program.to_json(), node_limit)["chosen"] == [0]


def test_where_no_set_pays_the_least_bad_is_kept_even_if_it_is_two():
    program = SelectionProgram(
        branch_parents=[-1, 0, 0], branch_costs=[0, 1, 1], parents=[1, 1, 2], gains=[0.4, 0.4, 0.5]
    )
    assert chosen_candidates(program.to_json(), SOLVER)["chosen"] == [0, 1]


def test_a_long_chain_of_branches_is_paid_for_once():
    depth = 2000
    program = SelectionProgram(
        branch_parents=range(-1, depth - 1), branch_costs=[1 / depth] * depth, parents=[depth - 1] * 2, gains=[0.6, 0.5]
    )
    assert program.value([0, 1]) == pytest.approx(0.1)
    assert chosen_candidates(program.to_json(), SOLVER)["chosen"] == [0, 1]


def test_a_cluster_counts_once():
    gains = [0.5, -0.1, -0.1]
    program = SelectionProgram(
        branch_parents=[-1], branch_costs=[0], parents=[0] * 3, gains=gains, clusters=[0, 1, 1], cluster_gain=0.2
    )
    assert program.value([0, 1]) == pytest.approx(0.5 - 0.1 + 0.4)
    assert program.value([0, 1, 2]) == pytest.approx(0.5 - 0.2 + 0.4)
    assert len(chosen_candidates(program.to_json(), SOLVER)["chosen"]) == 2


def test_without_the_solver_the_outcome_says_that_a_heuristic_chose():
    found = chosen_candidates(two_of_a_kind().to_json(), 0)
    assert found["note"] == "greedy: over 0 nodes"


def test_what_needs_no_search_is_an_optimum_without_the_solver_too():
    all_different = replace(two_of_a_kind(), clusters=[0, 1, 2, 3])
    assert chosen_candidates(all_different.to_json(), 0) == {"chosen": [0, 1, 2, 3], "note": ""}


def test_at_its_node_limit_the_better_of_solver_and_heuristic_chooses_and_the_outcome_says_so():
    program = set_cover(25)
    greedy, stopped, best = (chosen_candidates(program.to_json(), node_limit) for node_limit in (0, 1, SOLVER))
    assert (greedy["note"], best["note"]) == ("greedy: over 0 nodes", "")
    if stopped["note"]:  # which nodes it takes is HiGHS's own affair
        assert stopped["note"] in {"best found: over 1 nodes", "greedy: over 1 nodes"}
    values = [program.value(found["chosen"]) for found in (greedy, stopped, best)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_a_program_of_very_many_parts_is_left_to_the_heuristic():
    num_branches = MOST_PARTS // 3 + 1
    program = SelectionProgram(
        branch_parents=[-1] + [0] * num_branches,
        branch_costs=[0.3] * (num_branches + 1),
        parents=[branch for branch in range(1, num_branches + 1) for _ in range(2)],
        gains=[-0.01] * (2 * num_branches),
        clusters=[0, 1] * num_branches,
        cluster_gain=0.5,
    )
    found = chosen_candidates(program.to_json(), SOLVER)
    assert found["note"] == f"greedy: over {MOST_PARTS} parts"
    assert program.value(found["chosen"]) == pytest.approx(0.5 * 2 - 0.3 * 2 - 0.01 * 2)
