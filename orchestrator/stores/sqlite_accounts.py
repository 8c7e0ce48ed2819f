"""Accounts and documents in an SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from orchestrator.budget import Amount
from orchestrator.stores import books
from orchestrator.stores.books import Book, Hold
from orchestrator.stores.rows import encoded
from orchestrator.stores.sqlite_file import SqliteFile


class SqliteShelf:
    """Implements `books.Shelf` within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def book(self, account: str, period: str) -> Book:
        """One book."""
        statement = "SELECT spent, aside FROM books WHERE account = ? AND period = ?"
        row = self._connection.execute(statement, (account, period)).fetchone()
        return Book() if row is None else Book(_amount(row[0]), _amount(row[1]))

    def put_book(self, account: str, period: str, book: Book) -> None:
        """Replaces a book."""
        values = (account, period, encoded(book.spent.to_json()), encoded(book.aside.to_json()))
        self._connection.execute(
            "INSERT OR REPLACE INTO books (account, period, spent, aside) VALUES (?, ?, ?, ?)", values
        )

    def hold(self, job_id: str) -> Hold | None:
        """What is set aside for a job."""
        statement = "SELECT account, amount, periods FROM holds WHERE job_id = ?"
        row = self._connection.execute(statement, (job_id,)).fetchone()
        return None if row is None else _hold(*row)

    def put_hold(self, job_id: str, hold: Hold | None) -> None:
        """Replaces it, or removes it."""
        if hold is None:
            self._connection.execute("DELETE FROM holds WHERE job_id = ?", (job_id,))
            return
        values = (job_id, hold.account, encoded(hold.amount.to_json()), encoded(hold.periods))
        statement = "INSERT OR REPLACE INTO holds (job_id, account, amount, periods) VALUES (?, ?, ?, ?)"
        self._connection.execute(statement, values)

    def check_integrity(self) -> None:
        """Raises AssertionError if a book says something else than the jobs it is for."""
        rows = self._connection.execute("SELECT account, period, spent, aside FROM books")
        kept = {(account, period): Book(_amount(spent), _amount(aside)) for account, period, spent, aside in rows}
        holds = self._connection.execute("SELECT account, amount, periods FROM holds")
        books.check_books(kept, [_hold(*row) for row in holds])


class SqliteAccounts(SqliteFile):
    """Implements `orchestrator.store.Accounts`."""

    async def set_aside(
        self, account: str, job_id: str, amount: Amount, *, caps: Mapping[str, Amount | None], partly: bool = False
    ) -> Amount:
        """Sets ``amount`` aside for a job in each period of ``caps``."""

        def write(connection: sqlite3.Connection) -> Amount:
            return books.set_aside(SqliteShelf(connection), account, job_id, amount, caps=caps, partly=partly)

        return await self._write(write)

    async def settle(self, job_id: str, actual: Amount) -> None:
        """Books what a job has cost in place of what was set aside for it."""
        await self._write(lambda connection: books.settle(SqliteShelf(connection), job_id, actual))

    async def spent(self, account: str, period: str) -> tuple[Amount, Amount]:
        """What is spent, and what is set aside besides."""
        book = await self._read(lambda connection: SqliteShelf(connection).book(account, period))
        return book.spent, book.aside

    async def admit(self, account: str, *, rate_per_s: float, burst: int) -> float:
        """Takes a token from the account's bucket; refusals write nothing."""

        def take(connection: sqlite3.Connection) -> float:
            now = self._clock.time()
            row = connection.execute("SELECT tokens, since FROM buckets WHERE account = ?", (account,)).fetchone()
            tokens, since = row or (float(burst), now)
            tokens = books.filled(tokens, elapsed_s=now - since, rate_per_s=rate_per_s, burst=burst)
            wait_s = books.seconds_until_admitted(tokens, rate_per_s=rate_per_s)
            if not wait_s:
                values = (account, tokens - 1, now)
                connection.execute("INSERT OR REPLACE INTO buckets (account, tokens, since) VALUES (?, ?, ?)", values)
            return wait_s

        return await self._write(take)


class SqliteDocuments(SqliteFile):
    """Implements `orchestrator.store.Documents`."""

    async def put_document(self, kind: str, key: str, value: dict[str, Any] | None) -> None:  # Any: JSON values
        """Writes or, with None, removes one."""
        text = None if value is None else encoded(value)

        def write(connection: sqlite3.Connection) -> None:
            if text is None:
                connection.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key))
            else:
                statement = "INSERT OR REPLACE INTO documents (kind, key, value) VALUES (?, ?, ?)"
                connection.execute(statement, (kind, key, text))

        await self._write(write)

    async def get_document(self, kind: str, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """One, or None."""

        def select(connection: sqlite3.Connection) -> dict[str, Any] | None:
            statement = "SELECT value FROM documents WHERE kind = ? AND key = ?"
            row = connection.execute(statement, (kind, key)).fetchone()
            value: dict[str, Any] | None = None if row is None else json.loads(row[0])
            return value

        return await self._read(select)

    async def list_documents(
        self, kind: str, *, prefix: str = "", limit: int = 1000, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:  # Any: JSON values
        """Keys that begin with ``prefix`` with their values, last key first."""
        last = prefix + "\U0010ffff"  # no key goes on with it: it is no character
        end = last if before is None else min(before, last)

        def select(connection: sqlite3.Connection) -> list[tuple[str, dict[str, Any]]]:
            statement = (
                "SELECT key, value FROM documents WHERE kind = ? AND key >= ? AND key < ? ORDER BY key DESC LIMIT ?"
            )
            rows = connection.execute(statement, (kind, prefix, end, max(limit, 0)))
            return [(key, json.loads(value)) for key, value in rows]

        return await self._read(select)


def _amount(text: str) -> Amount:
    return Amount.from_json(json.loads(text))


def _hold(account: str, amount: str, periods: str) -> Hold:
    return Hold(account, _amount(amount), tuple(json.loads(periods)))
