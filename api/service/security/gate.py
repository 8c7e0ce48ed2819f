"""The gate: turns a request's credentials into a `Principal`, or refuses it."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections import OrderedDict
from typing import NamedTuple

from orchestrator.api.service.security.keys import KeyBook, KeyRecord, KeyText, is_right
from orchestrator.api.service.security.principal import Principal
from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import TooManyRequests, Unauthorized
from orchestrator.store import Store

DEFAULT_CACHE_S = 2.0

_MAX_KNOWN = 10_000
_READS_PER_WRITE = 10
_MAX_HEADER_CHARS = 256
_SECRETS, _SALT_SECRET = "secret", "cache_salt"  # kind and key of a document
_ANYBODY = Principal()


class _Known(NamedTuple):
    record: KeyRecord | None
    cache_salt: str
    until: float


class Gate:
    """Lets callers in. What it has learnt of a key it believes for ``cache_s`` seconds, so a key that was revoked may
    still work for so long in each process.

    Args:
        store: Where the keys are.
        is_key_required: Refuse callers without a key even while there is none; set where the service can be
            reached from other machines.
        cache_s: How long a key is remembered.
        clock: Time.
    """

    def __init__(
        self,
        store: Store,
        *,
        is_key_required: bool = False,
        cache_s: float = DEFAULT_CACHE_S,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._is_key_required = is_key_required
        self._cache_s = cache_s
        self._clock = clock or SystemClock()
        self._book = KeyBook(store, clock=self._clock)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._had_keys = False
        self._looked_at = -float("inf")

    async def admit(self, authorization: str | None, *, is_reading: bool) -> Principal:
        """Who sent this ``Authorization`` header.

        Args:
            authorization: The header; None where there is none.
            is_reading: Whether the request changes nothing; those are counted in a bucket of their own.

        Raises:
            Unauthorized: There is no key, or it is not (or no longer) valid.
            TooManyRequests: The key's rate is used up.
            StoreFailed: The keys cannot be read.
        """
        if await self.is_open():
            return _ANYBODY
        record, cache_salt = await self._recognised(authorization)
        await self._check_rate(record, is_reading=is_reading)
        return Principal(
            tenant=record.tenant,
            key_id=record.id,
            limits=record.limits,
            is_admin=record.is_admin,
            cache_salt=cache_salt,
        )

    async def is_open(self) -> bool:
        """Whether callers need no key: there is none, and nobody but this machine can call."""
        if self._is_key_required or self._had_keys:
            return False
        now = self._clock.monotonic()
        if now - self._looked_at >= self._cache_s:
            self._had_keys = await self._book.has_any()
            self._looked_at = now
        return not self._had_keys

    async def _recognised(self, authorization: str | None) -> tuple[KeyRecord, str]:
        if authorization is None:
            raise Unauthorized("this service needs an API key; send it as: Authorization: Bearer ttc_...")
        scheme, _, given = authorization[:_MAX_HEADER_CHARS].partition(" ")
        text = KeyText.read(given.strip())
        if scheme.lower() != "bearer" or text is None:
            raise Unauthorized("the Authorization header holds no API key; it must read: Bearer ttc_ID_SECRET")
        record, cache_salt, _ = await self._find(text.id)
        if not is_right(record, text.secret):
            raise Unauthorized("this API key is not known")
        assert record is not None, "no key is right that does not exist"
        if (state := record.state(self._clock.time())) != "active":
            raise Unauthorized(f"this API key is {state}; ask for another one")
        return record, cache_salt

    async def _find(self, key_id: str) -> _Known:
        """The key, from memory if it was looked up a moment ago; also that there is none is remembered."""
        now = self._clock.monotonic()
        known = self._known.get(key_id)
        if known is None or now >= known.until:
            record = await self._book.find(key_id)
            cache_salt = "" if record is None else await self._salt_of(record.tenant)
            known = self._known[key_id] = _Known(record, cache_salt, now + self._cache_s)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key_id)
        return known

    async def _check_rate(self, record: KeyRecord, *, is_reading: bool) -> None:
        rate = record.limits.rate_per_s
        if rate is None:
            return
        factor = _READS_PER_WRITE if is_reading else 1
        wait_s = await self._store.admit(
            f"{record.id}:{'reads' if is_reading else 'writes'}",
            rate_per_s=rate * factor,
            burst=record.limits.burst * factor,
        )
        if wait_s > 0:
            raise TooManyRequests(
                f"this API key may send {rate * factor:g} requests a second that "
                f"{'only look' if is_reading else 'change something'}; ask again in {wait_s:.3g} s",
                retry_after_s=wait_s,
            )

    async def _salt_of(self, tenant: str) -> str:
        """A keyed hash of the tenant's name, the same in all processes over this store; it says nothing to others."""
        return hashlib.blake2b(tenant.encode(), key=await self._shared_secret(), digest_size=16).hexdigest()

    async def _shared_secret(self) -> bytes:
        found = await self._store.get_document(_SECRETS, _SALT_SECRET)
        if found is None:
            await self._store.put_document(_SECRETS, _SALT_SECRET, {"hex": secrets.token_hex(32)})
            found = await self._store.get_document(_SECRETS, _SALT_SECRET)
            assert found is not None, "it was just written"
        return bytes.fromhex(found["hex"])


async def must_stay_on_loopback(store: Store) -> bool:
    """Whether the service may only be reached from this machine: as long as there is no API key."""
    return not await KeyBook(store).has_any()


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine and nobody else."""
    name = host.strip().strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
