"""Jobs, rows and amounts as text that Redis sorts and keeps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.budget import Amount
from orchestrator.errors import InvalidRequest
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores.redis.keys import book, lower_bound, place_in_queue, upper_bound
from orchestrator.stores.redis.records import (
    amount_text,
    decoded_amount,
    decoded_record,
    decoded_rows,
    record_fields,
    row_texts,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.dictionaries(
    st.text(max_size=3), st.integers() | st.floats(allow_nan=False) | st.text() | st.none(), max_size=2
)
RECORDS = st.builds(
    JobRecord,
    id=TEXTS,
    spec=JSON,
    state=st.sampled_from(JobState),
    created_at=st.floats(allow_nan=False),
    updated_at=st.floats(allow_nan=False),
    epoch=st.integers(0, 10**6),
    owner=st.none() | TEXTS,
    result=st.none() | JSON,
    tenant=TEXTS,
    key_id=TEXTS,
    priority=st.integers(-(2**63), 2**63 - 1),
    due_at=st.none() | st.floats(allow_nan=False),
    batch=st.none() | TEXTS,
    idempotency_key=st.none() | TEXTS,
    is_cancel_wanted=st.booleans(),
)


@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: JobRecord) -> None:
    fields = [text.encode() for item in record_fields(record).items() for text in item]
    assert decoded_record(fields) == record


@given(RECORDS, RECORDS)
def test_places_sort_by_priority_then_due_then_id(first: JobRecord, second: JobRecord) -> None:
    def order(record: JobRecord) -> tuple[int, float, bool, bytes]:
        due = math.inf if record.due_at is None else record.due_at
        return -record.priority, due, record.due_at is None, record.id.encode()

    assert place_in_queue(first)[32:] == first.id
    is_before = place_in_queue(first).encode() < place_in_queue(second).encode()
    assert is_before == (order(first) < order(second))


def test_a_priority_of_more_than_64_bits_is_refused() -> None:
    for priority in (2**63, -(2**63) - 1):
        with pytest.raises(InvalidRequest) as caught:
            place_in_queue(JobRecord(id="a", priority=priority))
        assert caught.value.field == "priority"


@given(st.lists(st.tuples(st.text(), JSON), max_size=3), st.integers(0, 10**6))
def test_rows_come_back_as_they_were(rows: list[tuple[str, dict[str, object]]], first: int) -> None:
    given_rows = [JournalRow(seq, kind, data) for seq, (kind, data) in enumerate(rows, first)]
    assert decoded_rows([text.encode() for text in row_texts(given_rows)], first) == given_rows


@given(st.builds(Amount, *[st.integers(0, 10**25)] * 6))
def test_amounts_come_back_as_they_were(amount: Amount) -> None:
    assert decoded_amount(amount_text(amount).encode()) == amount


@given(st.tuples(TEXTS, TEXTS), st.tuples(TEXTS, TEXTS))
def test_different_accounts_and_periods_have_different_books(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (book(*first) == book(*second)) == (first == second)


@given(st.lists(TEXTS, max_size=20), TEXTS, st.none() | TEXTS)
def test_bounds_enclose_what_begins_with_the_prefix_and_comes_before(
    names: list[str], prefix: str, before: str | None
) -> None:
    low, high = lower_bound(prefix), upper_bound(before, prefix)

    def is_inside(name: bytes) -> bool:
        below = high == b"+" or (name < high[1:] if high[:1] == b"(" else name <= high[1:])
        return below and (low == b"-" or name >= low[1:])

    inside = [name for name in names if is_inside(name.encode())]
    expected = [
        name for name in names if name.startswith(prefix) and (before is None or name.encode() < before.encode())
    ]
    assert inside == expected
