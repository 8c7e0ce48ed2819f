"""Books and documents in Redis: the parts of the store that know no jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.budget import AMOUNT_NAMES, Amount
from orchestrator.store import Payment
from orchestrator.stores.books import does_not_fit
from orchestrator.stores.redis.calls import Calls
from orchestrator.stores.redis.keys import Keys, book, lower_bound, upper_bound
from orchestrator.stores.redis.records import amount_text, decoded_amount, pairs
from orchestrator.stores.rows import encoded


class RedisAccounts:
    """Implements `Accounts`.

    Args:
        calls: To the server.
        keys: The layout.
    """

    def __init__(self, calls: Calls, keys: Keys) -> None:
        self._calls = calls
        self._keys = keys

    async def set_aside(
        self, account: str, job_id: str, amount: Amount, *, caps: Mapping[str, Amount | None], partly: bool = False
    ) -> Amount:
        """Sets an amount aside for a job in place of what it had."""
        payment = Payment(account, amount, caps)
        status, *details = await self._calls.script("set_aside", job_id, *payment_arguments(payment, partly=partly))
        if status == b"exhausted":
            raise exhausted(details, caps)
        return decoded_amount(details[0])

    async def settle(self, job_id: str, actual: Amount) -> None:
        """Books what a job has cost, once."""
        await self._calls.script("settle", job_id, amount_text(actual))

    async def spent(self, account: str, period: str) -> tuple[Amount, Amount]:
        """What is spent, and what is set aside besides."""
        spent, aside = await self._calls.read("HMGET", self._keys.account(book(account, period)), "spent", "aside")
        return decoded_amount(spent), decoded_amount(aside)

    async def admit(self, account: str, *, rate_per_s: float, burst: int) -> float:
        """Takes a token from the account's bucket; 0 if there was one, else seconds until there is."""
        if rate_per_s <= 0 or burst < 1:
            raise ValueError(
                f"a bucket needs a rate above 0 and a burst of at least 1, not {rate_per_s!r} and {burst!r}"
            )
        return float(await self._calls.script("admit", account, repr(float(rate_per_s)), burst))


class RedisDocuments:
    """Implements `Documents`.

    Args:
        calls: To the server.
        keys: The layout.
    """

    def __init__(self, calls: Calls, keys: Keys) -> None:
        self._calls = calls
        self._keys = keys

    async def put_document(self, kind: str, key: str, value: dict[str, Any] | None) -> None:  # Any: JSON values
        """Writes or removes a document."""
        await self._calls.script("put_document", kind, key, "" if value is None else encoded(value))

    async def get_document(self, kind: str, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """One, or None."""
        text = await self._calls.read("HGET", self._keys.documents(kind), key)
        return None if text is None else json.loads(text)

    async def list_documents(
        self, kind: str, *, prefix: str = "", limit: int = 1000, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:  # Any: JSON values
        """Keys that begin with ``prefix`` with their values, last key first."""
        bounds = lower_bound(prefix), upper_bound(before, prefix)
        found = await self._calls.script("list_documents", kind, *bounds, max(limit, 0), is_read=True)
        return [(key.decode(), json.loads(text)) for key, text in pairs(found)]


def payment_arguments(payment: Payment, *, partly: bool = False) -> list[str]:
    """What the script's ``set_aside`` reads."""
    arguments = [amount_text(payment.amount), "1" if partly else "0"]
    for period, cap in payment.caps.items():
        arguments += [book(payment.account, period), amount_text(cap)]
    return arguments


def exhausted(details: list[Any], caps: Mapping[str, Amount | None]) -> Exception:  # Any: numbers and texts
    """Why an amount was not set aside, from what the script answers."""
    number, field, left, wanted = map(int, details)
    return does_not_fit(AMOUNT_NAMES[field - 1], period=list(caps)[number - 1], remaining=left, requested=wanted)
