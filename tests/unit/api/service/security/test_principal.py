from __future__ import annotations

import pytest

from orchestrator.api.service.security import KeyLimits, Principal
from orchestrator.budget import Amount, Budget
from orchestrator.errors import InvalidRequest

NOON = 1_795_262_400.0  # 2026-11-21, 12:00 UTC


def test_a_job_is_booked_on_its_utc_day_and_in_total() -> None:
    limits = KeyLimits(per_day=Budget(max_usd=5), total=Budget(max_output_tokens=1000))
    caps = limits.caps(NOON)
    assert caps == {"2026-11-21": Amount(picodollars=5 * 10**12), "total": Amount(output_tokens=1000)}
    assert set(limits.caps(NOON + 12 * 3600)) == {"2026-11-22", "total"}


def test_without_caps_a_job_is_counted_all_the_same() -> None:
    assert KeyLimits().caps(NOON) == {"2026-11-21": None, "total": None}


def test_the_cap_per_request_lowers_each_field_of_a_budget_and_raises_none() -> None:
    limits = KeyLimits(per_request=Budget(max_output_tokens=1000, max_seconds=60))
    lowered = limits.lowered(Budget(max_output_tokens=5000, max_seconds=10, max_usd=1, target_confidence=0.9))
    assert lowered == Budget(max_output_tokens=1000, max_seconds=10, max_usd=1, target_confidence=0.9)
    assert limits.lowered(Budget()) == Budget(max_output_tokens=1000, max_seconds=60)


def test_limits_come_back_from_json_as_they_were() -> None:
    limits = KeyLimits(
        per_request=Budget(max_seconds=1.5), per_day=Budget(max_usd=0.1), rate_per_s=0.5, burst=3, max_waiting=7
    )
    data = limits.to_json()
    assert KeyLimits.from_json(data) == limits
    assert "total" not in data
    assert "max_running" not in data


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"per_day": Budget(max_seconds=3)}, "per_day"),
        ({"total": Budget(target_confidence=0.5)}, "total"),
        ({"per_request": Budget(answer_reserve_tokens=5)}, "per_request"),
        ({"per_day": Budget(max_usd=1e-15)}, "per_day"),  # would be rounded to 0: no cap at all
        ({"total": Budget(max_tool_calls=0)}, "total"),
        ({"rate_per_s": 0.0}, "rate"),
        ({"rate_per_s": float("nan")}, "rate"),
        ({"burst": 0}, "burst"),
        ({"max_waiting": 0}, "max_waiting"),
    ],
)
def test_limits_that_limit_nothing_are_refused_by_name(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        KeyLimits(**values)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_principal_does_not_print_its_salt() -> None:
    assert "pepper" not in repr(Principal(tenant="acme", cache_salt="pepper"))
