"""What fits under caps, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.budget import AMOUNT_NAMES, NOTHING, Amount
from orchestrator.errors import BudgetExhausted
from orchestrator.stores import books
from orchestrator.stores.books import Book
from orchestrator.stores.memory_books import MemoryShelf
from orchestrator.usage import Usage

amounts = st.builds(Amount, **{name: st.integers(0, 2**70) for name in AMOUNT_NAMES})


@given(cap=amounts, steps=st.lists(st.tuples(st.integers(0, 3), amounts, st.booleans(), st.booleans()), max_size=20))
def test_what_is_set_aside_never_exceeds_a_cap_and_the_books_add_up(
    cap: Amount, steps: list[tuple[int, Amount, bool, bool]]
) -> None:
    shelf = MemoryShelf()
    settled = NOTHING
    for number, amount, partly, is_settled in steps:
        before = shelf.book("a", "day")
        try:
            granted = books.set_aside(shelf, "a", f"j{number}", amount, caps={"day": cap, "total": None}, partly=partly)
        except BudgetExhausted:
            assert shelf.book("a", "day") == before
        else:
            assert partly or granted == amount
            if is_settled:
                books.settle(shelf, f"j{number}", granted)
                settled += granted
        book = shelf.book("a", "day")
        for name in AMOUNT_NAMES:
            if most := getattr(cap, name):
                assert getattr(book.spent + book.aside, name) <= most
        assert book == shelf.book("a", "total")
        assert book.spent == settled
        shelf.check_integrity()


def test_books_that_do_not_add_up_are_found() -> None:
    shelf = MemoryShelf()
    books.set_aside(shelf, "a", "j", Amount(model_calls=2), caps={"day": None})
    shelf.put_book("a", "day", Book(aside=Amount(model_calls=1)))
    with pytest.raises(AssertionError, match="model_calls=2"):
        shelf.check_integrity()


def test_a_result_says_what_it_cost_to_the_last_picodollar() -> None:
    usage = Usage(prompt_tokens=3, output_tokens=4, tool_calls=1, model_calls=2, picodollars=10**19 + 1, flops=10**22)
    assert books.cost_in({"usage": usage.to_json()}) == Amount(
        output_tokens=4, total_tokens=7, model_calls=2, tool_calls=1, picodollars=10**19 + 1, flops=10**22
    )
    for nothing in (None, {}, {"usage": None}, {"usage": {}}):
        assert books.cost_in(nothing) == NOTHING


def test_a_bucket_fills_up_to_its_burst_and_never_runs_backwards() -> None:
    assert books.filled(0.5, elapsed_s=2, rate_per_s=0.5, burst=3) == 1.5
    assert books.filled(0.5, elapsed_s=100, rate_per_s=0.5, burst=3) == 3
    assert books.filled(0.5, elapsed_s=-100, rate_per_s=0.5, burst=3) == 0.5
    assert books.seconds_until_admitted(0.5, rate_per_s=0.25) == 2
    assert books.seconds_until_admitted(1 - 1e-12, rate_per_s=0.25) == 0
    for rate, burst in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="bucket"):
            books.filled(1, elapsed_s=1, rate_per_s=rate, burst=burst)
