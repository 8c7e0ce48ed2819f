"""Both stores keep the promises of `orchestrator.store`, and the SQLite store those about files."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from orchestrator.store import Store
from orchestrator.stores import MemoryStore, SqliteStore
from orchestrator.testing.store_contract import DurableStoreContract, MakeStore, StoreContract
from orchestrator.testing.store_machine import StoreMachine


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        async def make() -> Store:
            return MemoryStore()

        return make


class TestSqliteStore(DurableStoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        async def make() -> Store:
            return SqliteStore(tmp_path / "jobs.sqlite")

        return make


class TestSqliteStoreThatSurvivesPowerCuts(DurableStoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        async def make() -> Store:
            return SqliteStore(tmp_path / "jobs.sqlite", durability="power")

        return make


class MemoryMachine(StoreMachine):
    @staticmethod
    async def open_store() -> Store:
        return MemoryStore()


class SqliteMachine(StoreMachine):
    folder = tempfile.TemporaryDirectory()
    numbers = itertools.count()

    @staticmethod
    async def open_store() -> Store:
        return SqliteStore(Path(SqliteMachine.folder.name) / f"{next(SqliteMachine.numbers)}.sqlite")


TestMemoryStories = MemoryMachine.TestCase
TestMemoryStories.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestSqliteStories = SqliteMachine.TestCase
TestSqliteStories.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
