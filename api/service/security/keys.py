"""API keys: how they are made, what of them is kept, and the book of those that exist.

A key is ``ttc_ID_SECRET``; the secret has 256 random bits and is shown once. The store keeps its SHA-256 hash. A slow
hash, as passwords need, would protect nothing here: nobody can try 2**256 secrets at any speed, and it would cost every
request milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from orchestrator.api.service.security.principal import KeyLimits
from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.store import Documents

KIND = "key"
"""Kind of the documents that hold keys."""

_KEY = re.compile(r"ttc_([0-9a-f]{12})_([0-9a-f]{64})")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ID_BYTES, _SECRET_BYTES = 6, 32
_NO_HASH = hashlib.sha256(b"").hexdigest()
"""Compared with where there is no such key, so that it takes as long as where there is one."""
_PAGE = 500
_MAX_NAME_CHARS = 100


class KeyText(NamedTuple):
    """The parts of a key as its owner sends it."""

    id: str
    secret: str

    @classmethod
    def read(cls, text: str) -> KeyText | None:
        """The parts; None if it has not the form of a key."""
        match = _KEY.fullmatch(text)
        return None if match is None else cls(match[1], match[2])

    def __str__(self) -> str:
        return f"ttc_{self.id}_{self.secret}"

    def __repr__(self) -> str:  # a key must not get into a log by accident
        return f"KeyText({self.id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key as the store keeps it.

    Attributes:
        id: The public part of the key.
        tenant: Whose jobs it sees.
        secret_hash: SHA-256 of the secret, in hexadecimal digits.
        name: What its owner calls it.
        is_admin: Whether it sees the usage of all keys of its tenant.
        limits: What it may spend.
        created_at: Seconds since the epoch.
        expires_at: When it stops working; None for never.
        revoked_at: When it was revoked; None if it was not.
    """

    id: str
    tenant: str
    secret_hash: str = field(repr=False)
    name: str = ""
    is_admin: bool = False
    limits: KeyLimits = field(default_factory=KeyLimits)
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"

    def view(self, now: float) -> dict[str, Any]:  # Any: JSON values
        """What people may see of it: all but the hash."""
        data = self.to_json()
        del data["secret_hash"]
        return {"id": self.id, **data, "state": self.state(now)}

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the id."""
        return {
            "tenant": self.tenant,
            "secret_hash": self.secret_hash,
            "name": self.name,
            "is_admin": self.is_admin,
            "limits": self.limits.to_json(),
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
        }

    @classmethod
    def from_json(cls, key_id: str, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(id=key_id, **{**data, "limits": KeyLimits.from_json(data["limits"])})


class NewKey(NamedTuple):
    """A key that was just made: what is kept, and the text that is shown once."""

    record: KeyRecord
    text: KeyText


def is_right(record: KeyRecord | None, secret: str) -> bool:
    """Whether the secret is that of the key; takes the same time whatever the answer is, and without a key."""
    kept = _NO_HASH if record is None else record.secret_hash
    return hmac.compare_digest(_hash(secret), kept) and record is not None


class KeyBook:
    """The keys in a store.

    Args:
        documents: The store.
        clock: Time.
    """

    def __init__(self, documents: Documents, *, clock: Clock | None = None) -> None:
        self._documents = documents
        self._clock = clock or SystemClock()

    async def create(
        self,
        tenant: str,
        *,
        limits: KeyLimits | None = None,
        name: str = "",
        is_admin: bool = False,
        lifetime_s: float | None = None,
    ) -> NewKey:
        """Makes a key.

        Raises:
            InvalidRequest: The tenant or the name cannot be used.
            StoreFailed: It could not be written.
        """
        if _TENANT.fullmatch(tenant) is None:
            raise InvalidRequest(
                f"a tenant is named with up to 63 of a-z, 0-9, '.', '_' and '-', not {tenant!r}",
                field="tenant",
                value=tenant,
            )
        if len(name) > _MAX_NAME_CHARS or not name.isprintable():
            raise InvalidRequest(
                f"a key's name has at most {_MAX_NAME_CHARS} printable characters", field="name", value=name
            )
        text = KeyText(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES))
        now = self._clock.time()
        record = KeyRecord(
            id=text.id,
            tenant=tenant,
            secret_hash=_hash(text.secret),
            name=name,
            is_admin=is_admin,
            limits=limits or KeyLimits(),
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
        )
        await self._documents.put_document(KIND, record.id, record.to_json())
        return NewKey(record, text)

    async def find(self, key_id: str) -> KeyRecord | None:
        """One key; None if there is none of that id."""
        data = await self._documents.get_document(KIND, key_id)
        return None if data is None else KeyRecord.from_json(key_id, data)

    async def get(self, key_id: str) -> KeyRecord:
        """One key.

        Raises:
            UnknownName: There is none of that id.
        """
        record = await self.find(key_id)
        if record is None:
            raise UnknownName(kind="key", name=key_id, known=(), hint="ttc keys list shows the ids")
        return record

    async def all(self, *, tenant: str | None = None) -> list[KeyRecord]:
        """All keys (of a tenant), oldest first."""
        found: list[KeyRecord] = []
        before: str | None = None
        while page := await self._documents.list_documents(KIND, limit=_PAGE, before=before):
            found += [KeyRecord.from_json(key_id, data) for key_id, data in page]
            before = page[-1][0]
        return sorted((key for key in found if tenant in {None, key.tenant}), key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> KeyRecord:
        """Ends a key; one that is revoked already stays as it is. Revoked keys are kept: a service that has had keys
        never goes back to letting everybody in.

        Raises:
            UnknownName: There is none of that id.
        """
        record = await self.get(key_id)
        if record.revoked_at is not None:
            return record
        await self._documents.put_document(KIND, key_id, record.to_json() | {"revoked_at": self._clock.time()})
        return await self.get(key_id)

    async def has_any(self) -> bool:
        """Whether there is a key, in whatever state."""
        return bool(await self._documents.list_documents(KIND, limit=1))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
