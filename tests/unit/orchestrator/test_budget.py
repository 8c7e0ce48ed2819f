"""Budgets: what can be read, what is refused and how, and the exact caps they stand for."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.budget import AMOUNT_NAMES, CAP_OF_AMOUNT, NOTHING, Amount, Budget
from orchestrator.errors import InvalidRequest

AMOUNTS = st.builds(Amount, **{name: st.integers(0, 10**15) for name in AMOUNT_NAMES})


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        (" , ,", {}),
        ("tokens=2000", {"max_output_tokens": 2000}),
        ("tokens=2000,seconds=60,usd=0.01", {"max_output_tokens": 2000, "max_seconds": 60.0, "max_usd": 0.01}),
        (" tokens = 5 , calls=3", {"max_output_tokens": 5, "max_model_calls": 3}),
        ("tokens=1.5k", {"max_output_tokens": 1500}),
        ("total_tokens=2M", {"max_total_tokens": 2_000_000}),
        ("tokens=1e3", {"max_output_tokens": 1000}),
        ("flops=2t", {"max_flops": 2e12}),
        ("tool_calls=0", {"max_tool_calls": 0}),
        ("tokens=100,reserve=0", {"max_output_tokens": 100, "answer_reserve_tokens": 0}),
        ("max_output_tokens=7", {"max_output_tokens": 7}),
    ],
)
def test_it_reads_the_command_lines_form(text: str, fields: dict[str, Any]):
    assert Budget.parse(text).to_json() == fields


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens", "cannot read 'tokens' in the budget; write for instance tokens=2000,seconds=60,usd=0.01"),
        ("TOKENS=5", "known: calls, flops, reserve, seconds, tokens, tool_calls, total_tokens, usd"),
        ("=5", "cannot read '=5' in the budget"),
        ("target_confidence=0.9", "cannot read 'target_confidence=0.9'"),
        ("tokens=", "budget tokens must be a number, not ''"),
        ("tokens=many", "budget tokens must be a number, not 'many'"),
        ("tokens=k", "budget tokens must be a number, not 'k'"),
        ("tokens=2000;seconds=60", "budget tokens must be a number, not '2000;seconds=60'"),
        ("seconds=5m", "budget seconds must be a number, not '5m'"),
        ("usd=1k", "budget usd must be a number, not '1k'"),
        ("tokens=0.5", "budget tokens must be a whole number, not '0.5'"),
        ("usd=nan", "budget usd must be finite, not 'nan'"),
        ("seconds=inf", "budget seconds must be finite, not 'inf'"),
        ("tokens=1e400", "budget tokens must be finite, not '1e400'"),
        ("tokens=0", "max_output_tokens must be above 0, not 0; leave it out for no cap"),
        ("tokens=-3", "max_output_tokens must be above 0, not -3"),
        ("usd=-0.5", "max_usd must be above 0, not -0.5"),
        ("tool_calls=-1", "max_tool_calls must be above 0, not -1"),
        ("reserve=-1", "answer_reserve_tokens must be a whole number of at least 0, not -1"),
        ("tokens=5,tokens=6", "the budget names tokens twice"),
        ("tokens=5,max_output_tokens=6", "the budget names max_output_tokens twice"),
    ],
)
def test_it_says_what_it_cannot_read(text: str, message: str):
    with pytest.raises(InvalidRequest) as caught:
        Budget.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_output_tokens": True}, "max_output_tokens must be a whole number, not True"),
        ({"max_output_tokens": 5.0}, "max_output_tokens must be a whole number, not 5.0"),
        ({"max_model_calls": "5"}, "max_model_calls must be a whole number, not '5'"),
        ({"max_usd": "1"}, "max_usd must be a finite number, not '1'"),
        ({"max_usd": math.nan}, "max_usd must be a finite number, not nan"),
        ({"max_seconds": math.inf}, "max_seconds must be a finite number, not inf"),
        ({"max_flops": False}, "max_flops must be a finite number, not False"),
        ({"max_seconds": 0}, "max_seconds must be above 0, not 0"),
        ({"target_confidence": 1}, "target_confidence must be above 0 and below 1, not 1"),
        ({"target_confidence": 0.0}, "target_confidence must be above 0 and below 1, not 0.0"),
        ({"target_confidence": math.nan}, "target_confidence must be above 0 and below 1, not nan"),
        ({"target_confidence": True}, "target_confidence must be above 0 and below 1, not True"),
        ({"answer_reserve_tokens": 1.5}, "answer_reserve_tokens must be a whole number of at least 0, not 1.5"),
    ],
)
def test_a_bad_value_is_refused_by_name(fields: dict[str, Any], message: str):
    with pytest.raises(InvalidRequest) as caught:
        Budget(**fields)
    assert message in str(caught.value)
    assert caught.value.field == next(iter(fields))


def test_a_name_that_is_no_field_is_refused():
    with pytest.raises(InvalidRequest, match="a budget has no 'max_tokens'; it has answer_reserve_tokens") as caught:
        Budget.from_json({"max_tokens": 5})
    assert caught.value.field == "budget.max_tokens"


def test_caps_are_exact_in_the_units_of_amounts():
    budget = Budget(max_output_tokens=7, max_usd=0.29, max_flops=1e15, max_seconds=9, max_tool_calls=0)
    caps = {"output_tokens": 7, "tool_calls": 0, "picodollars": 290_000_000_000, "flops": 10**15}
    assert budget.caps() == caps
    assert set(caps) <= set(CAP_OF_AMOUNT)


@given(picodollars=st.integers(1, 10**15))
def test_dollars_as_written_are_capped_to_the_picodollar(picodollars: int):
    usd = float(Fraction(picodollars, 10**12))
    assert Budget(max_usd=usd).caps()["picodollars"] == picodollars


@pytest.mark.parametrize("fields", [{"max_output_tokens": 10**400}, {"max_usd": 1e308}, {"max_flops": 10**400}])
def test_absurdly_large_caps_are_caps_like_others(fields: dict[str, Any]):
    assert min(Budget(**fields).caps().values()) > 10**300


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(), 48),
        (Budget(max_output_tokens=200), 20),
        (Budget(max_output_tokens=10_000), 48),
        (Budget(max_output_tokens=20), 8),
        (Budget(max_output_tokens=20, answer_reserve_tokens=0), 0),
        (Budget(answer_reserve_tokens=100), 100),
    ],
)
def test_a_tenth_of_the_output_is_kept_back_for_the_answer_within_limits(budget: Budget, expected: int):
    assert budget.reserve_tokens == expected


BUDGETS = st.builds(
    Budget,
    max_output_tokens=st.none() | st.integers(1, 10**9),
    max_total_tokens=st.none() | st.integers(1, 10**9),
    max_model_calls=st.none() | st.integers(1, 10**6),
    max_tool_calls=st.none() | st.integers(0, 10**6),
    max_usd=st.none() | st.floats(1e-9, 1e6),
    max_flops=st.none() | st.floats(1, 1e24),
    max_seconds=st.none() | st.floats(0.001, 1e6),
    target_confidence=st.none() | st.floats(0.01, 0.99),
    answer_reserve_tokens=st.none() | st.integers(0, 1000),
)


@given(budget=BUDGETS)
def test_a_budget_survives_json(budget: Budget):
    assert Budget.from_json(budget.to_json()) == budget


@given(budget=BUDGETS)
def test_only_what_is_capped_has_a_cap(budget: Budget):
    set_caps = {name for name, cap in CAP_OF_AMOUNT.items() if getattr(budget, cap) is not None}
    assert set(budget.caps()) == set_caps


@given(left=AMOUNTS, right=AMOUNTS)
def test_amounts_add_and_subtract_field_by_field(left: Amount, right: Amount):
    assert left + right == right + left
    assert left + right - right == left
    assert left - left == NOTHING
    assert all(getattr(left + right, name) == getattr(left, name) + getattr(right, name) for name in AMOUNT_NAMES)


@given(amount=AMOUNTS)
def test_an_amount_survives_json(amount: Amount):
    assert Amount.from_json(amount.to_json()) == amount
