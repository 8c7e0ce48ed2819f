from __future__ import annotations

import pytest

from orchestrator.api.service.security import KeyBook, KeyLimits
from orchestrator.api.service.security.keys import KIND, KeyText, is_right
from orchestrator.budget import Budget
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.stores.memory import MemoryStore
from orchestrator.testing.virtual_time import VirtualClock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def book(store: MemoryStore) -> KeyBook:
    return KeyBook(store)


async def test_a_key_is_found_by_its_id_and_only_its_own_secret_fits(book: KeyBook) -> None:
    made = await book.create("acme", limits=KeyLimits(per_day=Budget(max_usd=1)), name="ci")
    other = await book.create("acme")
    text = KeyText.read(str(made.text))
    assert text == made.text
    found = await book.find(made.text.id)
    assert found == made.record
    assert is_right(found, made.text.secret)
    assert not is_right(found, other.text.secret)
    assert not is_right(None, made.text.secret)


async def test_nothing_that_is_kept_or_printed_holds_the_secret(store: MemoryStore, book: KeyBook) -> None:
    made = await book.create("acme")
    kept = repr(await store.list_documents(KIND))
    assert made.record.id in kept
    for text in (kept, repr(made), repr(made.text), repr(made.record), repr(made.record.view(0.0))):
        assert made.text.secret not in text
    assert made.record.secret_hash not in repr(made.record)
    assert "secret_hash" not in made.record.view(0.0)


@pytest.mark.parametrize(
    "text",
    ["", "ttc_", "sk-abc", "ttc_0123456789ab_", "ttc_0123456789AB_" + "0" * 64, "ttc_0123456789ab_" + "0" * 65, "\0"],
)
def test_what_has_not_the_form_of_a_key_is_none(text: str) -> None:
    assert KeyText.read(text) is None


async def test_a_key_expires_and_a_revoked_one_stays_in_the_book(store: MemoryStore) -> None:
    clock = VirtualClock()
    book = KeyBook(store, clock=clock)
    made = await book.create("acme", lifetime_s=60)
    now = clock.time()
    assert made.record.state(now + 59) == "active"
    assert made.record.state(now + 60) == "expired"
    revoked = await book.revoke(made.record.id)
    assert revoked.state(now) == "revoked"
    assert (await book.revoke(made.record.id)).revoked_at == revoked.revoked_at
    assert await book.has_any()


async def test_keys_are_listed_oldest_first_by_tenant_over_many_pages(
    book: KeyBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.api.service.security.keys._PAGE", 2)
    made = [await book.create(tenant) for tenant in ("acme", "zeta", "acme", "acme", "zeta")]
    assert [key.id for key in await book.all()] == [key.record.id for key in made]
    assert {key.tenant for key in await book.all(tenant="zeta")} == {"zeta"}
    assert len(await book.all(tenant="zeta")) == 2


@pytest.mark.parametrize("tenant", ["", "A", "a b", "../x", "a" * 64, "ä", "-a", "a\n"])
async def test_a_tenant_that_could_be_mistaken_is_refused(book: KeyBook, tenant: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await book.create(tenant)
    assert caught.value.field == "tenant"


async def test_a_key_that_is_not_there_cannot_be_revoked(book: KeyBook) -> None:
    with pytest.raises(UnknownName) as caught:
        await book.revoke("0123456789ab")
    assert caught.value.kind == "key"
    assert not await book.has_any()
