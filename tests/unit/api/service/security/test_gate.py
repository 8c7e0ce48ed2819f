from __future__ import annotations

from typing import Any

import pytest

from orchestrator.api.service.security import Gate, KeyBook, KeyLimits, NewKey, is_loopback, must_stay_on_loopback
from orchestrator.clock import SystemClock
from orchestrator.errors import StoreFailed, TooManyRequests, Unauthorized
from orchestrator.stores.memory import MemoryStore


class HandClock(SystemClock):
    """Stands still until it is moved on."""

    now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class CountingStore(MemoryStore):
    """Counts how often it is asked for a document, and fails on demand."""

    num_reads = 0
    is_broken = False

    async def get_document(self, kind: str, key: str) -> dict[str, Any] | None:
        if self.is_broken:
            raise StoreFailed("the disk is gone")
        self.num_reads += 1
        return await super().get_document(kind, key)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(clock: HandClock) -> CountingStore:
    return CountingStore()


@pytest.fixture
def gate(store: CountingStore, clock: HandClock) -> Gate:
    return Gate(store, cache_s=2.0, clock=clock)


def bearer(key: NewKey) -> str:
    return f"Bearer {key.text}"


async def test_without_keys_everybody_is_let_in_as_the_one_tenant(gate: Gate) -> None:
    who = await gate.admit(None, is_reading=False)
    assert (who.tenant, who.key_id, who.cache_salt) == ("", "", "")
    assert await gate.admit("Bearer whatever", is_reading=False) == who


async def test_a_service_that_others_can_reach_never_lets_in_who_has_no_key(store: CountingStore) -> None:
    gate = Gate(store, is_key_required=True)
    with pytest.raises(Unauthorized):
        await gate.admit(None, is_reading=True)


async def test_the_first_key_closes_the_service_within_the_cache_time(
    gate: Gate, store: CountingStore, clock: HandClock
) -> None:
    await gate.admit(None, is_reading=False)
    key = await KeyBook(store).create("acme")
    clock.advance(2.0)
    with pytest.raises(Unauthorized):
        await gate.admit(None, is_reading=False)
    assert (await gate.admit(bearer(key), is_reading=False)).tenant == "acme"


async def test_revoking_the_last_key_does_not_open_the_service_again(store: CountingStore, clock: HandClock) -> None:
    book = KeyBook(store, clock=clock)
    await book.revoke((await book.create("acme")).record.id)
    assert not await must_stay_on_loopback(store)
    with pytest.raises(Unauthorized):
        await Gate(store, clock=clock).admit(None, is_reading=False)


async def test_a_revoked_key_works_no_longer_than_the_cache_time(
    gate: Gate, store: CountingStore, clock: HandClock
) -> None:
    book = KeyBook(store, clock=clock)
    key = await book.create("acme")
    await gate.admit(bearer(key), is_reading=False)
    await book.revoke(key.record.id)
    assert (await gate.admit(bearer(key), is_reading=False)).key_id == key.record.id
    clock.advance(2.0)
    with pytest.raises(Unauthorized, match="revoked"):
        await gate.admit(bearer(key), is_reading=False)


async def test_a_key_expires_even_while_it_is_remembered(gate: Gate, store: CountingStore, clock: HandClock) -> None:
    key = await KeyBook(store, clock=clock).create("acme", lifetime_s=1)
    await gate.admit(bearer(key), is_reading=False)
    clock.advance(1.0)
    with pytest.raises(Unauthorized, match="expired"):
        await gate.admit(bearer(key), is_reading=False)


async def test_a_known_key_costs_no_read_and_an_unknown_one_only_the_first_time(
    gate: Gate, store: CountingStore
) -> None:
    key = await KeyBook(store).create("acme")
    await gate.admit(bearer(key), is_reading=False)
    before = store.num_reads
    for _ in range(100):
        await gate.admit(bearer(key), is_reading=False)
    assert store.num_reads == before
    for _ in range(100):
        with pytest.raises(Unauthorized):
            await gate.admit("Bearer ttc_0123456789ab_" + "0" * 64, is_reading=False)
    assert store.num_reads == before + 1


async def test_the_memory_of_keys_is_bounded(gate: Gate, store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.api.service.security.gate._MAX_KNOWN", 10)
    await KeyBook(store).create("acme")
    for number in range(50):
        with pytest.raises(Unauthorized):
            await gate.admit(f"Bearer ttc_{number:012x}_" + "0" * 64, is_reading=False)
    assert len(gate._known) == 10


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer sk-test", "ttc_0_0", "Bearer " + "x" * 100_000, "\xff\xfe"],
)
async def test_what_is_no_key_is_refused_without_a_look_at_the_store(
    gate: Gate, store: CountingStore, header: str
) -> None:
    await KeyBook(store).create("acme")
    before = store.num_reads
    with pytest.raises(Unauthorized) as caught:
        await gate.admit(header, is_reading=True)
    assert store.num_reads == before
    assert header[7:40] == "" or header[7:40] not in str(caught.value)


async def test_no_error_says_what_secret_was_sent(gate: Gate, store: CountingStore) -> None:
    key = await KeyBook(store).create("acme")
    wrong = str(key.text)[:-1] + ("0" if str(key.text)[-1] != "0" else "1")
    with pytest.raises(Unauthorized) as caught:
        await gate.admit(f"Bearer {wrong}", is_reading=False)
    assert wrong not in str(caught.value.fields())
    assert key.text.secret not in str(caught.value.fields())


async def test_a_store_that_fails_lets_nobody_in(gate: Gate, store: CountingStore) -> None:
    key = await KeyBook(store).create("acme")
    store.is_broken = True
    with pytest.raises(StoreFailed):
        await gate.admit(bearer(key), is_reading=False)


async def test_the_rate_counts_requests_that_change_something_apart_from_those_that_look(
    store: CountingStore, clock: HandClock
) -> None:
    gate = Gate(store, clock=clock)
    key = await KeyBook(store).create("acme", limits=KeyLimits(rate_per_s=0.001, burst=2))
    for _ in range(2):
        await gate.admit(bearer(key), is_reading=False)
    with pytest.raises(TooManyRequests) as caught:
        await gate.admit(bearer(key), is_reading=False)
    assert 0 < caught.value.retry_after_s <= 1000
    for _ in range(20):
        await gate.admit(bearer(key), is_reading=True)
    with pytest.raises(TooManyRequests):
        await gate.admit(bearer(key), is_reading=True)


async def test_tenants_have_salts_of_their_own_that_all_processes_agree_on(store: CountingStore) -> None:
    book = KeyBook(store)
    keys = [await book.create(tenant) for tenant in ("acme", "acme", "zeta")]
    salts = [(await Gate(store).admit(bearer(key), is_reading=True)).cache_salt for key in keys]
    assert salts[0] == salts[1] != salts[2]
    assert "acme" not in salts[0]
    elsewhere = CountingStore()
    key = await KeyBook(elsewhere).create("acme")
    assert (await Gate(elsewhere).admit(bearer(key), is_reading=True)).cache_salt != salts[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST", "app.localhost"])
def test_loopback_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example", "evil", "[::]"]
)
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)
