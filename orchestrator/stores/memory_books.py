"""Accounts and documents in memory."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from orchestrator.budget import Amount
from orchestrator.clock import Clock
from orchestrator.stores import books
from orchestrator.stores.books import Book, Hold
from orchestrator.stores.rows import encoded


class MemoryShelf:
    """Implements `books.Shelf`."""

    def __init__(self) -> None:
        self._books: dict[tuple[str, str], Book] = {}
        self._holds: dict[str, Hold] = {}

    def book(self, account: str, period: str) -> Book:
        """One book."""
        return self._books.get((account, period), Book())

    def put_book(self, account: str, period: str, book: Book) -> None:
        """Replaces a book."""
        self._books[account, period] = book

    def hold(self, job_id: str) -> Hold | None:
        """What is set aside for a job."""
        return self._holds.get(job_id)

    def put_hold(self, job_id: str, hold: Hold | None) -> None:
        """Replaces it, or removes it."""
        if hold is None:
            self._holds.pop(job_id, None)
        else:
            self._holds[job_id] = hold

    def check_integrity(self) -> None:
        """Raises AssertionError if a book says something else than the jobs it is for."""
        books.check_books(self._books, self._holds.values())


class MemoryAccounts:
    """Implements `orchestrator.store.Accounts`."""

    _clock: Clock
    _shelf: MemoryShelf
    _buckets: dict[str, tuple[float, float]]  # tokens, and when there were as many

    async def set_aside(
        self, account: str, job_id: str, amount: Amount, *, caps: Mapping[str, Amount | None], partly: bool = False
    ) -> Amount:
        """Sets ``amount`` aside for a job in each period of ``caps``."""
        self._check_open()
        return books.set_aside(self._shelf, account, job_id, amount, caps=caps, partly=partly)

    async def settle(self, job_id: str, actual: Amount) -> None:
        """Books what a job has cost in place of what was set aside for it."""
        self._check_open()
        books.settle(self._shelf, job_id, actual)

    async def spent(self, account: str, period: str) -> tuple[Amount, Amount]:
        """What is spent, and what is set aside besides."""
        self._check_open()
        book = self._shelf.book(account, period)
        return book.spent, book.aside

    async def admit(self, account: str, *, rate_per_s: float, burst: int) -> float:
        """Takes a token from the account's bucket."""
        self._check_open()
        now = self._clock.time()
        tokens, since = self._buckets.get(account, (float(burst), now))
        tokens = books.filled(tokens, elapsed_s=now - since, rate_per_s=rate_per_s, burst=burst)
        wait_s = books.seconds_until_admitted(tokens, rate_per_s=rate_per_s)
        if not wait_s:
            self._buckets[account] = (tokens - 1, now)
        return wait_s

    @abstractmethod
    def _check_open(self) -> None: ...


class MemoryDocuments:
    """Implements `orchestrator.store.Documents`."""

    _documents: dict[tuple[str, str], str]

    async def put_document(self, kind: str, key: str, value: dict[str, Any] | None) -> None:  # Any: JSON values
        """Writes or, with None, removes one."""
        self._check_open()
        if value is None:
            self._documents.pop((kind, key), None)
        else:
            self._documents[kind, key] = encoded(value)

    async def get_document(self, kind: str, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """One, or None."""
        self._check_open()
        text = self._documents.get((kind, key))
        value: dict[str, Any] | None = None if text is None else json.loads(text)
        return value

    async def list_documents(
        self, kind: str, *, prefix: str = "", limit: int = 1000, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:  # Any: JSON values
        """Keys that begin with ``prefix`` with their values, last key first."""
        self._check_open()
        keys = sorted(
            (
                key
                for of_kind, key in self._documents
                if of_kind == kind and key.startswith(prefix) and (before is None or key < before)
            ),
            reverse=True,
        )
        return [(key, json.loads(self._documents[kind, key])) for key in keys[: max(limit, 0)]]

    @abstractmethod
    def _check_open(self) -> None: ...
