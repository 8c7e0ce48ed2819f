"""The ledger: no sequence of reservations and settlements gets past a cap at any level."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from orchestrator.budget import AMOUNT_NAMES, CAP_OF_AMOUNT, NOTHING, Amount, Budget
from orchestrator.errors import BudgetExhausted
from orchestrator.ledger import Ledger, Reservation

SMALL = st.builds(
    Amount,
    output_tokens=st.integers(0, 40),
    total_tokens=st.integers(0, 80),
    model_calls=st.integers(0, 3),
    picodollars=st.integers(0, 10**6),
)
CAPS = st.builds(
    Budget,
    max_output_tokens=st.none() | st.integers(1, 200),
    max_total_tokens=st.none() | st.integers(1, 400),
    max_model_calls=st.none() | st.integers(1, 20),
    max_usd=st.none() | st.integers(1, 5 * 10**6).map(lambda picodollars: picodollars / 10**12),
)


def total(amounts: Sequence[Amount]) -> Amount:
    return sum(amounts, NOTHING)


def part_of(amount: Amount, share: float) -> Amount:
    return Amount(*(int(getattr(amount, name) * share) for name in AMOUNT_NAMES))


def fits(ledger: Ledger, amount: Amount, *, may_use_hold: bool = False) -> bool:
    """The rule, written down once more: at every level, spent + reserved + held + wanted <= cap."""
    level: Ledger | None = ledger
    while level is not None:
        held = NOTHING if may_use_hold and level is ledger else level.held
        used = level.spent + level.reserved + held + amount
        if any(getattr(amount, name) and getattr(used, name) > cap for name, cap in level.budget.caps().items()):
            return False
        level = level.parent
    return True


@dataclass
class Books:
    """What one leaf should have in its books."""

    ledger: Ledger
    open: list[Reservation] = field(default_factory=list)
    settled: list[Amount] = field(default_factory=list)


class NestedLedgers(RuleBasedStateMachine):
    """Two jobs under one key under one tenant; whatever they do, all three levels keep their caps."""

    reservations = Bundle("reservations")

    @initialize(tenant=CAPS, key=CAPS, jobs=st.tuples(CAPS, CAPS))
    def open_books(self, tenant: Budget, key: Budget, jobs: tuple[Budget, Budget]) -> None:
        self.tenant = Ledger(tenant, name="tenant")
        self.key = Ledger(key, parent=self.tenant, name="key")
        self.jobs = [Books(Ledger(budget, parent=self.key, name=f"job {place}")) for place, budget in enumerate(jobs)]

    @rule(target=reservations, job=st.integers(0, 1), amount=SMALL, may_use_hold=st.booleans())
    def reserve(self, job: int, amount: Amount, may_use_hold: bool) -> tuple[int, Reservation] | None:
        books = self.jobs[job]
        before = (books.ledger.reserved, self.key.reserved, self.tenant.reserved)
        should_fit = fits(books.ledger, amount, may_use_hold=may_use_hold)
        if should_fit:
            reservation = books.ledger.reserve(amount, may_use_hold=may_use_hold)
            books.open.append(reservation)
            return job, reservation
        with pytest.raises(BudgetExhausted) as caught:
            books.ledger.reserve(amount, may_use_hold=may_use_hold)
        assert caught.value.requested > caught.value.remaining >= 0
        assert (books.ledger.reserved, self.key.reserved, self.tenant.reserved) == before
        return None

    @rule(held=consumes(reservations), share=st.floats(0, 1))
    def settle(self, held: tuple[int, Reservation] | None, share: float) -> None:
        if held is None:
            return
        books, reservation = self.jobs[held[0]], held[1]
        actual = part_of(reservation.amount, share)
        assert reservation.settle(actual) == NOTHING  # nothing beyond what was reserved
        books.open.remove(reservation)
        books.settled.append(actual)

    @rule(held=consumes(reservations))
    def refund(self, held: tuple[int, Reservation] | None) -> None:
        if held is not None:
            held[1].refund()
            self.jobs[held[0]].open.remove(held[1])

    @rule(held=reservations, extra=SMALL)
    def grow(self, held: tuple[int, Reservation] | None, extra: Amount) -> None:
        if held is None or not held[1].is_open:
            return
        before = held[1].amount
        if fits(self.jobs[held[0]].ledger, extra):
            held[1].grow(extra)
            assert held[1].amount == before + extra
        else:
            with pytest.raises(BudgetExhausted):
                held[1].grow(extra)
            assert held[1].amount == before

    @rule(job=st.integers(0, 1), tokens=st.integers(0, 20))
    def hold(self, job: int, tokens: int) -> None:
        self.jobs[job].ledger.hold(Amount(output_tokens=tokens))

    @invariant()
    def no_level_is_over_its_caps(self) -> None:
        for ledger in (*(books.ledger for books in self.jobs), self.key, self.tenant):
            ledger.check_integrity()

    @invariant()
    def the_books_of_all_levels_add_up(self) -> None:
        for books in self.jobs:
            assert books.ledger.reserved == total([reservation.amount for reservation in books.open])
            assert books.ledger.spent == total(books.settled)
        for above in (self.key, self.tenant):
            assert above.spent == total([books.ledger.spent for books in self.jobs])
            assert above.reserved == total([books.ledger.reserved for books in self.jobs])

    @invariant()
    def what_is_said_to_remain_can_be_reserved_and_no_more(self) -> None:
        for books in self.jobs:
            for name, left in books.ledger.remaining().items():
                assert left >= 0
                assert left == 0 or books.ledger.shortfall(Amount(**{name: left})) is None
                assert books.ledger.shortfall(Amount(**{name: left + 1})) is not None


NestedLedgers.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNestedLedgers = NestedLedgers.TestCase


@pytest.mark.parametrize(
    ("budget", "amount", "limit", "remaining", "requested"),
    [
        (Budget(max_output_tokens=10), Amount(output_tokens=11), "max_output_tokens", 10, 11),
        (Budget(max_total_tokens=10), Amount(output_tokens=5, total_tokens=12), "max_total_tokens", 10, 12),
        (Budget(max_model_calls=2), Amount(model_calls=3), "max_model_calls", 2, 3),
        (Budget(max_tool_calls=0), Amount(tool_calls=1), "max_tool_calls", 0, 1),
        (Budget(max_usd=0.5), Amount(picodollars=75 * 10**10), "max_usd", 0.5, 0.75),
        (Budget(max_flops=1e9), Amount(flops=2 * 10**9), "max_flops", 1e9, 2e9),
    ],
)
def test_a_refusal_names_the_cap_in_the_units_of_the_budget(
    budget: Budget, amount: Amount, limit: str, remaining: float, requested: float
):
    with pytest.raises(BudgetExhausted) as caught:
        Ledger(budget).reserve(amount)
    assert caught.value.limit == limit
    assert (caught.value.remaining, caught.value.requested) == pytest.approx((remaining, requested))


def test_a_shortfall_says_whose_cap_it_is():
    tenant = Ledger(Budget(max_output_tokens=10, max_model_calls=1), name="tenant")
    job = Ledger(Budget(max_output_tokens=20), parent=tenant)
    own = job.shortfall(Amount(output_tokens=21))
    above = job.shortfall(Amount(output_tokens=15))
    other = job.shortfall(Amount(model_calls=2))
    assert own is not None
    assert (own.is_own, own.remaining) == (True, 20)
    assert above is not None
    assert (above.is_own, above.remaining) == (False, 10)
    assert other is not None
    assert (other.is_own, other.amount_name) == (False, "model_calls")


def test_the_tightest_level_decides_what_remains():
    tenant = Ledger(Budget(max_output_tokens=100, max_model_calls=5))
    job = Ledger(Budget(max_output_tokens=30, max_usd=1.0), parent=tenant)
    sibling = Ledger(parent=tenant)
    sibling.reserve(Amount(output_tokens=80, model_calls=1))
    assert job.remaining() == {"output_tokens": 20, "picodollars": 10**12, "model_calls": 4}


def test_only_stating_the_answer_may_use_what_is_held_for_it():
    ledger = Ledger(Budget(max_output_tokens=50))
    ledger.hold(Amount(output_tokens=20))
    assert ledger.remaining() == {"output_tokens": 30}
    with pytest.raises(BudgetExhausted):
        ledger.reserve(Amount(output_tokens=31))
    ledger.reserve(Amount(output_tokens=30))
    assert ledger.remaining() == {"output_tokens": 0}
    ledger.reserve(Amount(output_tokens=20), may_use_hold=True)
    ledger.check_integrity()


def test_a_hold_beyond_the_cap_leaves_nothing_and_owes_nothing():
    ledger = Ledger(Budget(max_output_tokens=5))
    ledger.hold(Amount(output_tokens=50))
    assert ledger.remaining() == {"output_tokens": 0}


def test_what_a_lying_server_took_beyond_its_reservation_is_booked_and_reported():
    ledger = Ledger(Budget(max_output_tokens=10))
    reservation = ledger.reserve(Amount(output_tokens=10, model_calls=1))
    assert reservation.settle(Amount(output_tokens=13, model_calls=1)) == Amount(output_tokens=3)
    assert ledger.spent.output_tokens == 13
    assert ledger.remaining() == {"output_tokens": 0}
    with pytest.raises(AssertionError, match="output_tokens 13 exceeds its cap 10"):
        ledger.check_integrity()


def test_an_overspent_cap_does_not_block_what_does_not_touch_it():
    ledger = Ledger(Budget(max_output_tokens=10))
    ledger.charge(Amount(output_tokens=11))
    ledger.reserve(Amount(tool_calls=1))


def test_a_reservation_is_settled_once():
    reservation = Ledger().reserve(Amount(output_tokens=1))
    reservation.refund()
    with pytest.raises(AssertionError, match="settled once"):
        reservation.settle(NOTHING)


@given(amount=SMALL)
def test_without_caps_everything_fits(amount: Amount):
    ledger = Ledger()
    ledger.reserve(amount)
    assert ledger.remaining() == {}


def test_every_capped_amount_has_a_name_in_the_budget():
    assert set(CAP_OF_AMOUNT) == set(AMOUNT_NAMES)
