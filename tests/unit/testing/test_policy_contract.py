"""The contract finds what it is there to find."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.actions import Answer, Expand, Next, Propose, Start
from orchestrator.errors import BudgetExhausted
from orchestrator.policies import self_consistency
from orchestrator.policy import PolicySpec, as_policy
from orchestrator.testing.policy_contract import PolicyCase, PolicyContract

MOOD = itertools.count()
CONTRACT = PolicyContract()


def unsure(query, ctx):
    """Is more than sure."""
    samples = yield Expand([query.root], 2)
    return Answer("1", samples[0] if samples else None, confidence=1.5, confidence_kind="verifier")


def inventing(query, ctx):
    """Answers what its node does not say."""
    samples = yield Expand([query.root])
    return Answer("17", samples[0]) if samples else Answer(None)


def greedy(query, ctx):
    """Draws until it likes what it sees."""
    while True:
        samples = yield Expand([query.root])
        if samples and samples[0].answer is not None:
            return None


def wasteful(query, ctx):
    """Draws more than it was told to."""
    yield Expand([query.root], 9)
    return None


def whimsical(query, ctx):
    """Has a will of its own."""
    yield Propose(Answer(str(next(MOOD))))
    yield Expand([query.root])
    return None


def clumsy(query, ctx):
    """Falls over errors."""
    try:
        yield Expand([query.root])
    except BudgetExhausted:
        raise KeyError("samples") from None
    return None


def careless(query, ctx):
    """Takes samples for granted."""
    samples = yield Expand([query.root])
    return samples[0].answer


def stubborn(query, ctx):
    """Goes on when it is told to stop."""
    try:
        yield Expand([query.root])
    finally:
        yield Propose(Answer("17"))
    return None


def silent(query, ctx):
    yield Expand([query.root])
    return None


def forgetful(query, ctx):
    """Leaves its stream open."""
    stream = yield Start(Expand([query.root], 2))
    yield Next(stream)
    return None


@pytest.mark.parametrize(
    ("check", "policy", "message"),
    [
        (CONTRACT.test_it_ends_with_a_sound_answer_whatever_the_samples_say, unsure, "confidence 1.5"),
        (CONTRACT.test_it_ends_with_a_sound_answer_whatever_the_samples_say, inventing, "is not what"),
        (CONTRACT.test_it_ends_with_a_sound_answer_whatever_the_samples_say, forgetful, "left streams"),
        (CONTRACT.test_it_ends_with_a_sound_answer_whatever_the_samples_say, greedy, "has not ended"),
        (CONTRACT.test_it_never_asks_for_more_samples_than_its_parameters_allow, wasteful, "9 samples, not 5"),
        (
            CONTRACT.test_it_repeats_itself_when_seed_and_outcomes_repeat,
            whimsical,
            "it asks for something else the second time",
        ),
        (CONTRACT.test_it_survives_an_exhausted_budget_at_any_yield, clumsy, "samples"),
        (CONTRACT.test_it_stops_when_it_is_closed, stubborn, "yields after it was closed"),
        (CONTRACT.test_it_survives_an_outcome_without_any_sample, careless, "out of range"),
        (CONTRACT.test_it_says_what_it_does_and_what_its_parameters_mean, silent, "one sentence"),
    ],
)
def test_it_catches(check: Callable[..., None], policy: Any, message: str):
    with pytest.raises((AssertionError, LookupError), match=message):
        check(case=PolicyCase(as_policy(policy), max_samples=5))


def test_a_case_is_named_after_its_policy_and_parameters():
    assert str(PolicyCase(self_consistency, {"n": 3})) == "self_consistency-n=3"


def test_it_catches_a_parameter_without_a_description():
    class Undescribed(self_consistency.params_type):
        secret: int = 1

    spec = PolicySpec(name="p", function=self_consistency.function, params_type=Undescribed, summary="Does.")
    with pytest.raises(AssertionError, match="parameter 'secret' has no description"):
        CONTRACT.test_it_says_what_it_does_and_what_its_parameters_mean(PolicyCase(spec))
