"""What stores promise about the books that all processes share."""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.budget import NOTHING, Amount
from orchestrator.errors import BudgetExhausted, JobConflict, LeaseLost
from orchestrator.store import Change, JobRecord, JobState, Payment, Store
from orchestrator.stores.leases import new_owner
from orchestrator.testing.store_suite import StoreSuite, rows
from orchestrator.usage import Usage

USAGE = Usage(
    prompt_tokens=100,
    cached_prompt_tokens=90,
    output_tokens=30,
    model_calls=4,
    tool_calls=2,
    picodollars=10**17 + 1,  # more than a double can count
    flops=3 * 10**21 + 7,
    wall_s=1.5,
)
COST = Amount(
    output_tokens=30, total_tokens=130, model_calls=4, tool_calls=2, picodollars=10**17 + 1, flops=3 * 10**21 + 7
)
RESULT: dict[str, Any] = {"answer": "42", "usage": USAGE.to_json()}  # Any: JSON values


def tokens(count: int) -> Amount:
    """An amount of output tokens only."""
    return Amount(output_tokens=count)


class AccountsContract(StoreSuite):
    """The promises of `orchestrator.store.Accounts`."""

    async def test_nothing_is_spent_at_first(self, store: Store) -> None:
        assert await store.spent("a", "day") == (NOTHING, NOTHING)

    async def test_what_is_set_aside_counts_in_every_period_until_it_is_settled(self, store: Store) -> None:
        caps = {"day": tokens(100), "total": None}
        assert await store.set_aside("a:b", "job", tokens(60), caps=caps) == tokens(60)
        for period in caps:
            assert await store.spent("a:b", period) == (NOTHING, tokens(60))
        await store.settle("job", Amount(output_tokens=25, model_calls=1))
        await store.settle("job", tokens(99))
        for period in caps:
            assert await store.spent("a:b", period) == (Amount(output_tokens=25, model_calls=1), NOTHING)
        assert await store.spent("a:b", "month") == (NOTHING, NOTHING)
        assert await store.spent("a", "day") == (NOTHING, NOTHING)

    async def test_settling_an_unknown_job_books_nothing(self, store: Store) -> None:
        await store.settle("nobody", tokens(5))
        assert await store.spent("", "day") == (NOTHING, NOTHING)

    async def test_what_does_not_fit_in_one_period_is_set_aside_in_none(self, store: Store) -> None:
        await store.set_aside("a", "j1", tokens(60), caps={"day": tokens(100), "total": tokens(1000)})
        with pytest.raises(BudgetExhausted) as caught:
            await store.set_aside("a", "j2", tokens(41), caps={"total": tokens(1000), "day": tokens(100)})
        error = caught.value
        assert (error.limit, error.remaining, error.requested) == ("max_output_tokens", 40, 41)
        assert error.fields()["period"] == "day"
        for period in ("day", "total"):
            assert await store.spent("a", period) == (NOTHING, tokens(60))
        assert await store.set_aside("a", "j2", tokens(40), caps={"day": tokens(100)}) == tokens(40)

    async def test_a_refusal_speaks_in_the_units_of_budgets(self, store: Store) -> None:
        with pytest.raises(BudgetExhausted) as caught:
            await store.set_aside(
                "a", "j", Amount(picodollars=2 * 10**12), caps={"day": Amount(picodollars=5 * 10**11)}
            )
        error = caught.value
        assert error.limit == "max_usd"
        assert error.remaining == pytest.approx(0.5)
        assert error.requested == pytest.approx(2)

    async def test_what_is_spent_leaves_less_to_set_aside(self, store: Store) -> None:
        caps = {"day": tokens(100)}
        await store.set_aside("a", "j1", tokens(50), caps=caps)
        await store.settle("j1", tokens(120))  # a server may overrun what it was granted
        assert await store.spent("a", "day") == (tokens(120), NOTHING)
        with pytest.raises(BudgetExhausted) as caught:
            await store.set_aside("a", "j2", tokens(1), caps=caps)
        assert caught.value.remaining == 0

    async def test_fields_that_are_0_are_neither_capped_nor_counted(self, store: Store) -> None:
        caps = {"day": Amount(output_tokens=10, model_calls=1)}
        amount = Amount(total_tokens=10**9, model_calls=1)
        assert await store.set_aside("a", "j", amount, caps=caps) == amount
        assert await store.set_aside("a", "k", tokens(10), caps=caps) == tokens(10)
        assert await store.spent("a", "day") == (NOTHING, amount + tokens(10))

    async def test_what_a_job_had_is_replaced_wherever_it_was(self, store: Store) -> None:
        await store.set_aside("a", "j", tokens(60), caps={"day": tokens(100), "old": None})
        assert await store.set_aside("a", "j", tokens(90), caps={"day": tokens(100)}) == tokens(90)
        assert await store.spent("a", "day") == (NOTHING, tokens(90))
        assert await store.spent("a", "old") == (NOTHING, NOTHING)
        with pytest.raises(BudgetExhausted) as caught:
            await store.set_aside("a", "j", tokens(101), caps={"day": tokens(100)})
        assert caught.value.remaining == 100
        assert await store.spent("a", "day") == (NOTHING, tokens(90))
        await store.set_aside("b", "j", tokens(5), caps={"day": None})
        assert await store.spent("a", "day") == (NOTHING, NOTHING)
        assert await store.spent("b", "day") == (NOTHING, tokens(5))

    async def test_part_of_it_is_what_is_left_in_every_period(self, store: Store) -> None:
        caps = {"day": Amount(output_tokens=100, model_calls=8), "total": tokens(70), "hour": None}
        wanted = Amount(output_tokens=500, model_calls=3, flops=9)
        granted = await store.set_aside("a", "j1", wanted, caps=caps, partly=True)
        assert granted == Amount(output_tokens=70, model_calls=3, flops=9)
        assert await store.spent("a", "hour") == (NOTHING, granted)
        with pytest.raises(BudgetExhausted) as caught:  # a share of nothing would be no cap at all
            await store.set_aside("a", "j2", wanted, caps=caps, partly=True)
        assert (caught.value.remaining, caught.value.fields()["period"]) == (0, "total")
        assert await store.set_aside("a", "j2", Amount(model_calls=9), caps=caps, partly=True) == Amount(model_calls=5)

    async def test_amounts_are_exact_however_large(self, store: Store) -> None:
        for number in range(3):
            await store.set_aside("a", f"j{number}", COST, caps={"day": None})
        assert await store.spent("a", "day") == (NOTHING, COST + COST + COST)
        for number in range(3):
            await store.settle(f"j{number}", COST)
        assert await store.spent("a", "day") == (COST + COST + COST, NOTHING)
        left = Amount(flops=1, picodollars=1)
        caps = {"day": COST + COST + COST + left}
        assert await store.set_aside("a", "k", Amount(flops=9, picodollars=9), caps=caps, partly=True) == left

    async def test_of_many_at_once_as_many_fit_as_the_cap_allows(self, store: Store) -> None:
        caps = {"day": tokens(100)}
        tried = [store.set_aside("a", f"j{number}", tokens(9), caps=caps) for number in range(40)]
        results = await asyncio.gather(*tried, return_exceptions=True)
        assert [result for result in results if not isinstance(result, BudgetExhausted)] == [tokens(9)] * 11
        assert await store.spent("a", "day") == (NOTHING, tokens(99))

    # Jobs and their accounts

    @pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
    async def test_the_end_of_a_job_settles_its_account_to_what_its_result_says(
        self, store: Store, state: JobState
    ) -> None:
        await store.set_aside("a", "j", tokens(60), caps={"day": None, "total": None})
        await self.claimed(store, "j")
        await store.append("j", 1, rows(0), state=state, result=RESULT)
        for period in ("day", "total"):
            assert await store.spent("a", period) == (COST, NOTHING)
        await store.settle("j", tokens(1))
        assert await store.spent("a", "day") == (COST, NOTHING)

    async def test_a_refused_end_settles_nothing(self, store: Store) -> None:
        await store.set_aside("a", "j", tokens(60), caps={"day": None})
        await self.claimed(store, "j")
        for epoch, first in ((2, 0), (1, 1)):
            with pytest.raises(LeaseLost):
                await store.append("j", epoch, rows(first), state=JobState.SUCCEEDED, result=RESULT)
        assert await store.spent("a", "day") == (NOTHING, tokens(60))

    async def test_a_job_that_goes_on_keeps_what_was_set_aside(self, store: Store) -> None:
        await store.set_aside("a", "j", tokens(60), caps={"day": None})
        await self.claimed(store, "j")
        await store.append("j", 1, rows(0), state=JobState.WAITING, result=RESULT)
        await store.append("j", 1, rows(1), state=JobState.QUEUED)
        claimed = await store.take(new_owner(), lease_s=60)
        assert claimed is not None
        assert await store.spent("a", "day") == (NOTHING, tokens(60))
        await store.append("j", claimed.epoch, [], state=JobState.CANCELLED)  # the result it has says what it cost
        assert await store.spent("a", "day") == (COST, NOTHING)

    async def test_a_job_that_ends_with_no_result_has_cost_nothing(self, store: Store) -> None:
        await store.set_aside("a", "j", tokens(60), caps={"day": None})
        await self.claimed(store, "j")
        await store.append("j", 1, [], state=JobState.CANCELLED)
        assert await store.spent("a", "day") == (NOTHING, NOTHING)

    async def test_deleting_a_job_releases_what_is_set_aside_and_keeps_what_is_spent(self, store: Store) -> None:
        for job_id in "jk":
            await store.set_aside("a", job_id, tokens(60), caps={"day": None})
            await self.claimed(store, job_id)
        await store.append("j", 1, rows(0), state=JobState.SUCCEEDED, result=RESULT)
        assert await store.spent("a", "day") == (COST, tokens(60))
        await store.delete("j")
        await store.delete("k")
        assert await store.spent("a", "day") == (COST, NOTHING)

    async def test_a_job_is_created_and_paid_for_at_once_or_not_at_all(self, store: Store) -> None:
        payment = Payment("a", tokens(60), {"day": tokens(100), "total": None})
        await store.create(JobRecord(id="j", idempotency_key="k"), payment=payment)
        for period in ("day", "total"):
            assert await store.spent("a", period) == (NOTHING, tokens(60))
        with pytest.raises(BudgetExhausted) as caught:
            await store.create(JobRecord(id="poor", owner=new_owner()), payment=payment, lease_s=60)
        assert (caught.value.remaining, caught.value.fields()["period"]) == (40, "day")
        for twice in (JobRecord(id="j"), JobRecord(id="i", idempotency_key="k")):
            with pytest.raises(JobConflict):  # which says more than that it cannot be paid for
                await store.create(twice, payment=payment)
        assert [job.id for job in await store.list_jobs()] == ["j"]
        assert await store.spent("a", "total") == (NOTHING, tokens(60))
        await store.claim("j", new_owner(), lease_s=60)
        await store.append("j", 1, rows(0), state=JobState.SUCCEEDED, result=RESULT)
        assert await store.spent("a", "total") == (COST, NOTHING)

    async def test_a_job_that_ends_as_it_is_created_is_settled_with_that(self, store: Store) -> None:
        payment = Payment("a", tokens(60), {"total": None})
        first = Change(rows(0), JobState.SUCCEEDED, RESULT)
        await store.create(JobRecord(id="j", owner=new_owner()), lease_s=60, payment=payment, first=first)
        assert await store.spent("a", "total") == (COST, NOTHING)

    # Rates

    async def test_a_bucket_gives_its_tokens_at_once_and_then_says_how_long_to_wait(self, store: Store) -> None:
        assert [await store.admit("a", rate_per_s=0.01, burst=3) for _ in range(3)] == [0, 0, 0]
        for _ in range(2):
            assert 90 < await store.admit("a", rate_per_s=0.01, burst=3) <= 100
        assert await store.admit("b", rate_per_s=0.01, burst=3) == 0

    async def test_a_bucket_fills_again_but_not_over(self, store: Store) -> None:
        for _ in range(2):
            assert await store.admit("a", rate_per_s=20, burst=2) == 0
        wait_s = await store.admit("a", rate_per_s=20, burst=2)
        assert 0 < wait_s <= 0.05
        await asyncio.sleep(wait_s + 0.005)
        assert await store.admit("a", rate_per_s=20, burst=2) == 0
        await asyncio.sleep(0.3)
        assert [await store.admit("a", rate_per_s=rate, burst=2) for rate in (20, 0.01)] == [0, 0]
        assert await store.admit("a", rate_per_s=0.01, burst=2) > 0

    async def test_of_many_at_once_as_many_are_admitted_as_there_are_tokens(self, store: Store) -> None:
        waits = await asyncio.gather(*[store.admit("a", rate_per_s=0.01, burst=7) for _ in range(30)])
        assert waits.count(0) == 7
