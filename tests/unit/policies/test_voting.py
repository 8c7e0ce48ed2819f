"""Votes: who leads, how ties go, and how sure a majority is."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from orchestrator.actions import Answer
from orchestrator.engine import FinishReason
from orchestrator.policies.voting import Votes, dirichlet_leader_probability, leader_probability
from orchestrator.tree import Node


def voter(answer: str | None, *, logprob: float | None = None, finish: FinishReason = FinishReason.END) -> Node:
    return Node("n", answer=answer, answer_class=answer, logprob=logprob, output_tokens=10, finish=finish)


def votes_for(*answers: str | None) -> Votes:
    return Votes(voter(answer) for answer in answers)


@pytest.mark.parametrize(
    ("leader", "runner_up", "expected"),
    [(3, 0, 0.9375), (4, 0, 0.96875), (5, 0, 0.984375), (6, 1, 0.965), (10, 4, 0.941), (0, 0, 0.5), (7, 7, 0.5)],
)
def test_the_posterior_has_the_worked_numbers(leader: int, runner_up: int, expected: float):
    assert leader_probability(leader, runner_up) == pytest.approx(expected, abs=5e-4)


@given(first=st.integers(0, 400), second=st.integers(0, 400))
def test_the_posterior_is_the_incomplete_beta_function(first: int, second: int):
    expected = special.betaincc(first + 1, second + 1, 0.5)
    assert leader_probability(first, second) == pytest.approx(expected, abs=1e-12, rel=1e-9)


@given(first=st.integers(0, 60), second=st.integers(0, 60))
def test_with_two_classes_the_dirichlet_rule_is_the_beta_rule(first: int, second: int):
    assert dirichlet_leader_probability(first, [second]) == pytest.approx(leader_probability(first, second), abs=1e-15)


@given(votes=st.integers(0, 12), num_rivals=st.integers(0, 12))
def test_equal_classes_are_equally_likely_to_lead(votes: int, num_rivals: int):
    expected = 1 / (num_rivals + 1)
    assert dirichlet_leader_probability(votes, [votes] * num_rivals) == pytest.approx(expected, rel=1e-12)


@given(counts=st.lists(st.integers(0, 10), min_size=2, max_size=5))
@settings(deadline=None)
def test_the_chances_of_all_classes_to_lead_add_up_to_one(counts: list[int]):
    chances = [
        dirichlet_leader_probability(count, [*counts[:place], *counts[place + 1 :]])
        for place, count in enumerate(counts)
    ]
    assert math.fsum(chances) == pytest.approx(1, abs=1e-12)


@given(leader=st.integers(0, 20), rivals=st.lists(st.integers(0, 20), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_dirichlet_rule_is_never_less_strict_than_the_beta_rule(leader: int, rivals: list[int]):
    assert dirichlet_leader_probability(leader, rivals) <= leader_probability(leader, max(rivals)) + 1e-12


@pytest.mark.parametrize("counts", [(4, 1, 1, 1), (10, 6, 5), (3, 3, 2)])
def test_the_dirichlet_rule_agrees_with_drawing(counts: tuple[int, ...]):
    """Binomial test: 200,000 draws, rejected beyond 4.5 standard errors (a false alarm in 150,000 runs each)."""
    num_draws = 200_000
    shares = np.random.default_rng(7).dirichlet(np.array(counts) + 1.0, size=num_draws)
    leads = float(np.mean(shares[:, 0] > shares[:, 1:].max(axis=1)))
    expected = dirichlet_leader_probability(counts[0], counts[1:])
    assert abs(leads - expected) < 4.5 * math.sqrt(expected * (1 - expected) / num_draws)


@given(answers=st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=30))
def test_the_leader_has_the_most_votes_and_came_first_among_equals(answers: list[str | None]):
    expected = Counter(answer for answer in answers if answer is not None).most_common(1)  # first seen on a tie
    votes = votes_for(*answers)
    assert votes.leader == (expected[0][0] if expected else None)
    assert votes.num_samples == len(answers)
    assert votes.num_votes == len(answers) - answers.count(None)


@given(answers=st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=30))
def test_shares_of_the_classes_add_up_to_one(answers: list[str | None]):
    votes = votes_for(*answers)
    shares = [votes.share(name) for name, _ in votes.ranking()]
    assert math.fsum(shares) == pytest.approx(1 if shares else 0)
    assert shares == sorted(shares, reverse=True)


def test_samples_without_an_answer_have_no_vote():
    assert votes_for(None, None, "b", None).top_two == (1, 0)


def test_a_tie_can_go_to_the_likelier_samples():
    votes = Votes([voter("a", logprob=-30.0), voter("b", logprob=-5.0)], ties="logprob")
    assert votes.leader == "b"


def test_a_tie_without_log_probabilities_goes_to_the_class_seen_first():
    assert Votes([voter("a"), voter("b")], ties="logprob").leader == "a"


def test_weights_add_up_whatever_their_order():
    weights = [0.1, 0.2, 0.3]
    votes = Votes()
    for weight in weights:
        votes.add(voter("a"), weight)
    for weight in reversed(weights):
        votes.add(voter("b"), weight)
    assert votes.weight("a") == votes.weight("b")
    assert votes.leader == "a"


def test_a_class_speaks_through_its_heaviest_sample():
    first, second, third = voter("a"), voter("a"), voter("a")
    votes = Votes()
    for node, weight in ((first, 0.2), (second, 0.7), (third, 0.7)):
        votes.add(node, weight)
    assert votes.answer().node is second


def test_the_answer_lists_its_rivals_with_their_shares_best_first():
    answer = votes_for("a", "b", "a", "c", "b", "a").answer(confidence=0.5)
    assert answer.text == "a"
    assert answer.alternatives == (("b", pytest.approx(1 / 3)), ("c", pytest.approx(1 / 6)))
    assert (answer.confidence, answer.confidence_kind) == (0.5, "majority_posterior")


def test_a_winner_that_does_not_lead_is_less_likely_than_not():
    votes = votes_for("a", "a", "a", "b", "b")
    assert votes.majority_posterior("b") == pytest.approx(1 - leader_probability(3, 2))
    assert votes.answer(winner="b").alternatives == (("a", pytest.approx(0.6)),)


def test_no_votes_give_no_text_and_no_confidence():
    votes = votes_for()
    assert votes.majority_posterior() is None
    assert votes.dirichlet_posterior() is None
    assert votes.answer(confidence=votes.majority_posterior()) == Answer(None)


def test_without_votes_the_likeliest_sample_is_kept_to_fall_back_on():
    nodes = [voter(None, logprob=-9.0), voter(None, logprob=-2.0), voter(None)]
    assert Votes(nodes).answer().node is nodes[1]


def test_without_votes_and_log_probabilities_the_first_finished_sample_is_kept():
    nodes = [voter(None, finish=FinishReason.LENGTH), voter(None), voter(None)]
    assert Votes(nodes).answer() == Answer(None, nodes[1])


def test_without_votes_and_finished_samples_the_first_one_is_kept():
    nodes = [voter(None, finish=FinishReason.LENGTH), voter(None, finish=FinishReason.LENGTH)]
    assert Votes(nodes).answer().node is nodes[0]


def test_votes_without_any_weight_have_no_share():
    votes = Votes()
    votes.add(voter("a"), 0.0)
    assert votes.answer().text == "a"
    assert votes.share("a") == 0
