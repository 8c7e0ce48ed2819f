"""What a job is allowed to cost under its caller's key: the budget it gets, and what is set aside for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

from orchestrator.api.service.security.principal import Principal
from orchestrator.budget import AMOUNT_NAMES, CAP_OF_AMOUNT, Amount, Budget
from orchestrator.cost import PICODOLLARS_PER_USD
from orchestrator.errors import BudgetExhausted
from orchestrator.store import Accounts, Payment


class Priced(NamedTuple):
    """The budget that a job may run with, and the payment that is to be made when it is created."""

    budget: Budget
    payment: Payment


async def priced(accounts: Accounts, who: Principal, budget: Budget, *, now: float) -> Priced:
    """Lowers a job's budget to what its key allows.

    What the key caps per request lowers the budget. What it caps per day or in total and the job leaves open becomes
    the job's cap, too: all that is left of it then, so that not even one job can spend more than its key may.

    Args:
        accounts: The books.
        who: The caller.
        budget: What the job asks for.
        now: Seconds since the epoch.

    Raises:
        BudgetExhausted: Nothing is left of an amount that the job leaves open. (What does not fit of the others is
            refused when the payment is made.)
    """
    budget = who.limits.lowered(budget)
    caps = who.limits.caps(now)
    open_names = _capped(caps) - budget.caps().keys()
    if open_names:
        left = await _left(accounts, who.account, {period: cap for period, cap in caps.items() if cap is not None})
        rest: dict[str, Any] = {CAP_OF_AMOUNT[name]: _cap_of(name, left[name]) for name in open_names}  # int or float
        budget = replace(budget, **rest)
    return Priced(budget, Payment(who.account, Amount(**budget.caps()), caps))


def _capped(caps: Mapping[str, Amount | None]) -> set[str]:
    return {name for cap in caps.values() if cap is not None for name in cap.to_json()}


async def _left(accounts: Accounts, account: str, caps: Mapping[str, Amount]) -> dict[str, int]:
    """What is left of each capped amount in the period that has the least."""
    left: dict[str, int] = {}
    for period, cap in caps.items():
        spent, set_aside = await accounts.spent(account, period)
        rest = cap - spent - set_aside
        for name in AMOUNT_NAMES:
            if getattr(cap, name):
                left[name] = min(left.get(name, getattr(rest, name)), getattr(rest, name))
    return left


def _cap_of(name: str, left: int) -> int | float:
    """The cap of `Budget` that allows ``left``, or a little less where it is no whole number."""
    if left <= 0:
        raise BudgetExhausted(limit=CAP_OF_AMOUNT[name], remaining=max(0, left), requested=1)
    if name != "picodollars":
        return left
    usd = left / PICODOLLARS_PER_USD
    while Fraction(str(usd)) * PICODOLLARS_PER_USD > left:
        usd = math.nextafter(usd, 0.0)
    return usd
