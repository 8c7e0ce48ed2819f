"""What all contract suites of stores share: the fixture they need, a store that is whole after every test, values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest

from orchestrator.store import JobRecord, JournalRow, Store
from orchestrator.stores.identifiers import new_job_id
from orchestrator.stores.leases import new_owner

MakeStore = Callable[[], Awaitable[Store]]
"""Opens an empty store; called again within one test, the same one a second time where stores are shared."""

ODD_VALUES: dict[str, Any] = {  # Any: JSON values
    "text": "日本語 🎉 \0 \u202e \ud800 \"'\\ </script>",
    "numbers": [0, -1, 2**53, 2**80, 1e-300, 0.1, True, None],
    "nested": {"": {"a b": [[], {}, [[]]]}},
}
SOON_S = 20.0
"""A wait that must have ended long before."""


def rows(first: int, count: int = 1, kind: str = "mark") -> list[JournalRow]:
    """``count`` rows from position ``first`` on."""
    return [JournalRow(seq, kind, {"n": seq}) for seq in range(first, first + count)]


class StoreSuite:
    """Fixtures; subclasses hold the tests.

    Attributes:
        short_lease_s: A lease that is over soon, for tests that wait for its end.
    """

    short_lease_s: ClassVar[float] = 0.05

    @pytest.fixture
    def make_store(self) -> MakeStore:
        """Opens an empty store; must be overridden."""
        raise NotImplementedError("override the fixture `make_store`")

    @pytest.fixture
    async def store(self, make_store: MakeStore) -> AsyncIterator[Store]:
        """A store that is whole after every test."""
        store = await make_store()
        yield store
        store.check_integrity()
        await store.aclose()

    async def claimed(self, store: Store, job_id: str | None = None, *, lease_s: float = 60) -> tuple[str, int]:
        """A new job held by this process, and its epoch."""
        job_id = job_id or new_job_id()
        await store.create(JobRecord(id=job_id))
        return job_id, await store.claim(job_id, new_owner(), lease_s=lease_s)
