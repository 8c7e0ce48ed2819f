"""The Redis store keeps the promises of `orchestrator.store`, on one server and on a node of a cluster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import settings

from orchestrator.store import Store
from orchestrator.stores.redis import RedisStore
from orchestrator.testing.store_contract import DurableStoreContract, MakeStore
from orchestrator.testing.store_machine import StoreMachine

from ..integration.redis_server import RedisServer

pytestmark = pytest.mark.server

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("node"), "--cluster-enabled", "yes") as server:
        assert server.ask("CLUSTER ADDSLOTSRANGE 0 16383") == b"+OK"
        while server.ask("SET a b") != b"+OK":  # until it has noticed that all slots are there
            pass
        yield server


class TestRedisStore(DurableStoreContract):
    @pytest.fixture
    def make_store(self, server: RedisServer) -> MakeStore:
        prefix = f"test{next(NUMBERS)}:"

        async def make() -> Store:
            return await RedisStore.open(f"{server.url}?prefix={prefix}")

        return make


class TestRedisStoreOnACluster(DurableStoreContract):
    @pytest.fixture
    def make_store(self, cluster_node: RedisServer) -> MakeStore:
        prefix = f"test{next(NUMBERS)}:"

        async def make() -> Store:
            return await RedisStore.open(f"{cluster_node.url}?prefix={prefix}")

        return make


class RedisMachine(StoreMachine):
    url: str

    @staticmethod
    async def open_store() -> Store:
        return await RedisStore.open(f"{RedisMachine.url}?prefix=story{next(NUMBERS)}:")


def test_life_stories_in_a_redis_store(server: RedisServer) -> None:
    RedisMachine.url = server.url
    case = RedisMachine.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
    case("runTest").runTest()
