"""What accounts hold, and what still fits under their caps: the rules all stores share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orchestrator.budget import AMOUNT_NAMES, CAP_OF_AMOUNT, NOTHING, Amount
from orchestrator.cost import PICODOLLARS_PER_USD
from orchestrator.errors import BudgetExhausted
from orchestrator.usage import Usage


@dataclass(frozen=True, slots=True)
class Book:
    """One account in one period.

    Attributes:
        spent: Settled so far.
        aside: Set aside for jobs that have not ended.
    """

    spent: Amount = NOTHING
    aside: Amount = NOTHING


@dataclass(frozen=True, slots=True)
class Hold:
    """What is set aside for one job: the same amount in each of the periods."""

    account: str
    amount: Amount
    periods: tuple[str, ...]

    def amount_in(self, account: str, period: str) -> Amount:
        """Its part of a book."""
        return self.amount if account == self.account and period in self.periods else NOTHING


class Shelf(Protocol):
    """Where books and holds are kept; what is called between two awaits, or in one transaction, is atomic."""

    def book(self, account: str, period: str) -> Book:
        """One book; an empty one if nothing was ever written to it."""
        ...

    def put_book(self, account: str, period: str, book: Book) -> None:
        """Replaces a book."""
        ...

    def hold(self, job_id: str) -> Hold | None:
        """What is set aside for a job."""
        ...

    def put_hold(self, job_id: str, hold: Hold | None) -> None:
        """Replaces it, or removes it."""
        ...


def set_aside(
    shelf: Shelf, account: str, job_id: str, amount: Amount, *, caps: Mapping[str, Amount | None], partly: bool = False
) -> Amount:
    """Carries out `Accounts.set_aside`; nothing is written where it is refused.

    Raises:
        BudgetExhausted: It does not fit.
    """
    before = shelf.hold(job_id)
    granted = amount
    found = {period: shelf.book(account, period) for period in caps}
    for period, cap in caps.items():
        book = found[period]
        own = NOTHING if before is None else before.amount_in(account, period)
        granted = _fitting(granted, period, cap=cap, taken=book.spent + book.aside - own, partly=partly)
    _release(shelf, before)
    for period in caps:
        book = found[period] if before is None else shelf.book(account, period)
        shelf.put_book(account, period, Book(book.spent, book.aside + granted))
    shelf.put_hold(job_id, Hold(account, granted, tuple(caps)))
    return granted


def settle(shelf: Shelf, job_id: str, actual: Amount) -> None:
    """Carries out `Accounts.settle`."""
    hold = shelf.hold(job_id)
    if hold is None:
        return
    for period in hold.periods:
        book = shelf.book(hold.account, period)
        shelf.put_book(hold.account, period, Book(book.spent + actual, book.aside - hold.amount))
    shelf.put_hold(job_id, None)


def charge(shelf: Shelf, account: str, actual: Amount, *, periods: Iterable[str]) -> None:
    """Books what a job has cost for which nothing was set aside."""
    for period in periods:
        book = shelf.book(account, period)
        shelf.put_book(account, period, Book(book.spent + actual, book.aside))


def cost_in(result: Mapping[str, Any] | None) -> Amount:  # Any: JSON values
    """What the result of a job says it has cost; nothing if it does not say."""
    usage = None if result is None else result.get("usage")
    return Usage.from_json(usage).amount if isinstance(usage, dict) else NOTHING


def does_not_fit(amount_name: str, *, period: str, remaining: int, requested: int) -> BudgetExhausted:
    """Why something cannot be set aside, in the units of `Budget`."""
    scale = PICODOLLARS_PER_USD if amount_name == "picodollars" else 1
    return BudgetExhausted(
        limit=CAP_OF_AMOUNT[amount_name],
        remaining=remaining / scale if scale > 1 else remaining,
        requested=requested / scale if scale > 1 else requested,
        period=period,
    )


def check_books(books: Mapping[tuple[str, str], Book], holds: Iterable[Hold]) -> None:
    """Raises AssertionError if what is set aside in a book is not what it is for the jobs together.

    Args:
        books: By account and period.
        holds: Of all jobs.
    """
    aside = dict.fromkeys(books, NOTHING)
    for hold in holds:
        for period in hold.periods:
            place = hold.account, period
            aside[place] = aside.get(place, NOTHING) + hold.amount
    for place, amount in aside.items():
        book = books.get(place, Book())
        assert book.aside == amount, f"{place}: {book.aside} is set aside, for the jobs together {amount}"
        assert min(getattr(book.spent, name) for name in AMOUNT_NAMES) >= 0, f"{place}: {book.spent} is spent"


def seconds_until_admitted(tokens: float, *, rate_per_s: float) -> float:
    """How long a bucket with ``tokens`` in it takes until it has one; 0 if it has."""
    return max(0.0, (1 - tokens) / rate_per_s) if tokens < _ONE_TOKEN else 0.0


def filled(tokens: float, *, elapsed_s: float, rate_per_s: float, burst: int) -> float:
    """What is in a bucket that had ``tokens`` some time ago.

    Raises:
        ValueError: The rate or the burst admit nothing ever.
    """
    if rate_per_s <= 0 or burst < 1:
        raise ValueError(f"a bucket needs a rate above 0 and a burst of at least 1, not {rate_per_s!r} and {burst!r}")
    return min(float(burst), tokens + max(0.0, elapsed_s) * rate_per_s)


_ONE_TOKEN = 1 - 1e-9
"""Waiting as long as was said must be enough, whatever is rounded."""


def _release(shelf: Shelf, hold: Hold | None) -> None:
    if hold is None:
        return
    for period in hold.periods:
        book = shelf.book(hold.account, period)
        shelf.put_book(hold.account, period, replace(book, aside=book.aside - hold.amount))


def _fitting(amount: Amount, period: str, *, cap: Amount | None, taken: Amount, partly: bool) -> Amount:
    granted = amount
    for name in AMOUNT_NAMES if cap is not None else ():
        wanted, most = getattr(amount, name), getattr(cap, name)
        left = max(0, most - getattr(taken, name))
        if not most or wanted <= left:
            continue
        if left == 0 or not partly:
            raise does_not_fit(name, period=period, remaining=left, requested=wanted)
        granted = replace(granted, **{name: left})
    return granted
