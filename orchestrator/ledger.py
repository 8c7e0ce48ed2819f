"""The one place that spends, and so the one place that can refuse.

A ledger reserves before work is dispatched, settles to the actual cost after it, and refunds the rest. Ledgers nest
(tenant > API key > batch > job > stage): a reservation must fit at every level. All methods are synchronous and
there is no await between check and booking, so tasks of one event loop cannot overspend together.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.budget import AMOUNT_NAMES, CAP_OF_AMOUNT, NOTHING, UNLIMITED, Amount, Budget
from orchestrator.errors import BudgetExhausted


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why an amount does not fit.

    Attributes:
        amount_name: The field of `Amount` that does not fit.
        remaining: What is left of it.
        requested: What was asked for.
        is_own: Whether the cap is this ledger's, and not one above it.
    """

    amount_name: str
    remaining: int
    requested: int
    is_own: bool

    def error(self) -> BudgetExhausted:
        """The shortfall as an error, in the units of `Budget`."""
        scale = 1e-12 if self.amount_name == "picodollars" else 1
        return BudgetExhausted(
            limit=CAP_OF_AMOUNT[self.amount_name], remaining=self.remaining * scale, requested=self.requested * scale
        )


class Reservation:
    """Money set aside for one piece of work; settle it exactly once."""

    __slots__ = ("_ledger", "amount", "is_open")

    def __init__(self, ledger: Ledger, amount: Amount) -> None:
        self._ledger = ledger
        self.amount = amount
        self.is_open = True

    def settle(self, actual: Amount) -> Amount:
        """Books the actual cost and refunds the rest.

        Returns:
            By how much the actual cost exceeds the reservation (never, for engines that count exactly).
        """
        assert self.is_open, "a reservation is settled once"
        self.is_open = False
        self._ledger.unreserve(self.amount)
        self._ledger.charge(actual)
        over = (max(0, getattr(actual, name) - getattr(self.amount, name)) for name in AMOUNT_NAMES)
        return Amount(*over)

    def grow(self, extra: Amount) -> None:
        """Sets more aside for the same work.

        Raises:
            BudgetExhausted: It does not fit; the reservation is as it was.
        """
        self._ledger.reserve(extra)
        self.amount += extra

    def refund(self) -> None:
        """Nothing was spent."""
        self.settle(NOTHING)


class Ledger:
    """What may be, is set aside to be, and has been spent under one budget.

    Attributes:
        spent: Settled so far.
        reserved: Set aside for work in flight.
        held: Set aside for stating an answer; only `reserve` with ``may_use_hold`` gets it.
    """

    def __init__(self, budget: Budget = UNLIMITED, *, parent: Ledger | None = None, name: str = "job") -> None:
        self.budget = budget
        self.name = name
        self.parent = parent
        self.spent = NOTHING
        self.reserved = NOTHING
        self.held = NOTHING
        self._caps = budget.caps()

    def remaining(self) -> dict[str, int]:
        """What is left under each cap, over all levels, at least 0; only capped fields of `Amount` appear."""
        left = {
            name: max(0, cap - getattr(self.spent, name) - getattr(self.reserved, name) - getattr(self.held, name))
            for name, cap in self._caps.items()
        }
        if self.parent is not None:
            for name, above in self.parent.remaining().items():
                left[name] = min(left.get(name, above), above)
        return left

    def shortfall(self, amount: Amount, *, may_use_hold: bool = False) -> Shortfall | None:
        """Why ``amount`` does not fit now; None if it does."""
        for name, cap in self._caps.items():
            wanted = getattr(amount, name)
            left = cap - getattr(self.spent, name) - getattr(self.reserved, name)
            if not may_use_hold:
                left -= getattr(self.held, name)
            if wanted > 0 and wanted > left:
                return Shortfall(name, max(0, left), wanted, is_own=True)
        if self.parent is not None and (above := self.parent.shortfall(amount)) is not None:
            return Shortfall(above.amount_name, above.remaining, above.requested, is_own=False)
        return None

    def reserve(self, amount: Amount, *, may_use_hold: bool = False) -> Reservation:
        """Sets ``amount`` aside at this level and at every one above.

        Raises:
            BudgetExhausted: It does not fit; nothing was set aside.
        """
        missing = self.shortfall(amount, may_use_hold=may_use_hold)
        if missing is not None:
            raise missing.error()
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.reserved += amount
            ledger = ledger.parent
        return Reservation(self, amount)

    def unreserve(self, amount: Amount) -> None:
        """Gives a reservation back, at every level; called by `Reservation`."""
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.reserved -= amount
            ledger = ledger.parent

    def charge(self, amount: Amount) -> None:
        """Books a cost that has already been incurred, at every level, whether or not it fits."""
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.spent += amount
            ledger = ledger.parent

    def take_over(self, spent: Amount, *, known_above: Amount = NOTHING) -> None:
        """Books what earlier lives of the same work have spent.

        Args:
            spent: All of it.
            known_above: The part that the levels above have been charged already.
        """
        self.spent += spent
        if self.parent is not None:
            self.parent.charge(spent - known_above)

    def hold(self, amount: Amount) -> None:
        """Sets the answer reserve of this level (replaces the previous one)."""
        self.held = amount

    def check_integrity(self) -> None:
        """Raises AssertionError if a level is overspent or its books do not add up."""
        for name in AMOUNT_NAMES:
            assert getattr(self.reserved, name) >= 0, f"{self.name}: negative reservation of {name}"
            assert getattr(self.spent, name) >= 0, f"{self.name}: negative spend of {name}"
        for name, cap in self._caps.items():
            used = getattr(self.spent, name) + getattr(self.reserved, name)
            assert used <= cap, f"{self.name}: {name} {used} exceeds its cap {cap}"
        if self.parent is not None:
            self.parent.check_integrity()
