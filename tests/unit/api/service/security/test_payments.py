from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.service.security import KeyLimits, Principal, priced
from orchestrator.api.service.security.payments import _cap_of
from orchestrator.budget import Amount, Budget
from orchestrator.errors import BudgetExhausted
from orchestrator.store import JobRecord
from orchestrator.stores.memory import MemoryStore

NOON = 1_795_262_400.0


def caller(**limits: Budget) -> Principal:
    return Principal(tenant="acme", key_id="k1", limits=KeyLimits(**limits))  # type: ignore[arg-type]  # budgets only


async def pay(store: MemoryStore, who: Principal, job_id: str, budget: Budget) -> Budget:
    """What the service does for each job."""
    allowed, payment = await priced(store, who, budget, now=NOON)
    await store.create(JobRecord(id=job_id, tenant=who.tenant, key_id=who.key_id), payment=payment)
    return allowed


async def test_a_job_that_names_no_cap_gets_all_that_is_left_and_the_next_gets_nothing() -> None:
    store, who = MemoryStore(), caller(per_day=Budget(max_output_tokens=1000))
    assert await pay(store, who, "a", Budget(max_output_tokens=300)) == Budget(max_output_tokens=300)
    assert await pay(store, who, "b", Budget(max_seconds=9)) == Budget(max_output_tokens=700, max_seconds=9)
    with pytest.raises(BudgetExhausted) as caught:
        await priced(store, who, Budget(), now=NOON)
    assert (caught.value.limit, caught.value.remaining) == ("max_output_tokens", 0)
    await store.settle("b", Amount(output_tokens=50))
    assert (await priced(store, who, Budget(), now=NOON)).budget.max_output_tokens == 650


async def test_a_job_that_asks_for_more_than_is_left_is_refused_when_it_is_created() -> None:
    store, who = MemoryStore(), caller(total=Budget(max_output_tokens=1000))
    await pay(store, who, "a", Budget(max_output_tokens=600))
    with pytest.raises(BudgetExhausted) as caught:
        await pay(store, who, "b", Budget(max_output_tokens=600))
    assert caught.value.remaining == 400


async def test_the_tightest_period_decides_and_the_next_day_starts_anew() -> None:
    store = MemoryStore()
    who = caller(per_day=Budget(max_output_tokens=100), total=Budget(max_output_tokens=150))
    await pay(store, who, "a", Budget(max_output_tokens=80))
    await store.settle("a", Amount(output_tokens=80))
    assert (await priced(store, who, Budget(), now=NOON)).budget.max_output_tokens == 20
    assert (await priced(store, who, Budget(), now=NOON + 86400)).budget.max_output_tokens == 70


async def test_the_cap_per_request_is_set_aside_for_jobs_that_name_none() -> None:
    store = MemoryStore()
    who = caller(per_request=Budget(max_usd=0.25), per_day=Budget(max_usd=1))
    for name in "abcd":
        assert (await pay(store, who, name, Budget())).max_usd == 0.25
    with pytest.raises(BudgetExhausted):
        await pay(store, who, "e", Budget())


async def test_a_key_without_caps_changes_no_budget_and_is_counted() -> None:
    store, who = MemoryStore(), caller()
    assert await pay(store, who, "a", Budget(max_output_tokens=5)) == Budget(max_output_tokens=5)
    await store.settle("a", Amount(output_tokens=4, picodollars=9))
    assert (await store.spent("k1", "total"))[0] == Amount(output_tokens=4, picodollars=9)


@given(st.integers(min_value=1, max_value=10**20))
def test_dollars_that_are_left_are_never_rounded_up(picodollars: int) -> None:
    usd = _cap_of("picodollars", picodollars)
    cap = Budget(max_usd=usd).caps()["picodollars"]
    assert cap <= picodollars
    assert picodollars - cap <= max(1, picodollars // 10**14)
