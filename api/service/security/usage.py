"""``GET /v1/usage``: what a key has spent, by day."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from orchestrator.api.service.callers import Caller
from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.security.keys import KeyBook
from orchestrator.api.service.security.principal import TOTAL, Principal, day_of
from orchestrator.budget import Amount
from orchestrator.cost import PICODOLLARS_PER_USD
from orchestrator.store import Store

router = APIRouter(tags=["usage"])

MAX_DAYS = 31
MAX_KEYS = 100
_DAY_S = 86_400


class AmountView(BaseModel):
    """What was spent, or is set aside."""

    output_tokens: int
    total_tokens: int
    model_calls: int
    tool_calls: int
    usd: float
    flops: int

    @classmethod
    def of(cls, amount: Amount) -> AmountView:
        """The view of an amount."""
        return cls(
            output_tokens=amount.output_tokens,
            total_tokens=amount.total_tokens,
            model_calls=amount.model_calls,
            tool_calls=amount.tool_calls,
            usd=amount.picodollars / PICODOLLARS_PER_USD,
            flops=amount.flops,
        )


class UsageRow(BaseModel):
    """One key in one period."""

    key_id: str = Field(description="Empty where the service has no keys")
    name: str
    period: str = Field(description="A UTC day such as 2026-11-21, or 'total'")
    spent: AmountView
    set_aside: AmountView = Field(description="For jobs that have not ended, besides what is spent")


class UsagePage(BaseModel):
    """Usage by key and period, the newest day first, then the total."""

    object: Literal["list"] = "list"
    data: list[UsageRow]


@router.get("/v1/usage")
async def usage(
    who: Caller,
    service: ServiceOf,
    days: Annotated[int, Query(ge=1, le=MAX_DAYS, description="How many days, today included")] = 7,
) -> UsagePage:
    """What the caller's key has spent, by day and in total; for an admin key, what each key of its tenant has."""
    store = service.orchestrator.store
    now = time.time()
    periods = [*(day_of(now - number * _DAY_S) for number in range(days)), TOTAL]
    names = await _keys(store, who)
    return UsagePage(data=[await _row(store, *key, period) for key in names.items() for period in periods])


async def _keys(store: Store, who: Principal) -> dict[str, str]:
    """Names by account; of many keys the newest ones."""
    if who.is_admin:
        return {key.id: key.name for key in (await KeyBook(store).all(tenant=who.tenant))[-MAX_KEYS:]}
    record = await KeyBook(store).find(who.key_id) if who.key_id else None
    return {who.account: "" if record is None else record.name}


async def _row(store: Store, account: str, name: str, period: str) -> UsageRow:
    spent, set_aside = await store.spent(account, period)
    key_id = "" if account == Principal().account else account
    return UsageRow(
        key_id=key_id, name=name, period=period, spent=AmountView.of(spent), set_aside=AmountView.of(set_aside)
    )
