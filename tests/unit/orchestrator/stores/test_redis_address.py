"""Which URLs name a Redis store, and that no password is ever shown."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.stores import open_store
from orchestrator.stores.opening import shown_store
from orchestrator.stores.redis import RedisAddress


def target(address: RedisAddress) -> tuple[object, object, object]:
    connection: Any = address.connection()
    return connection.host, connection.port, connection.db


def test_a_url_names_a_server_and_a_database() -> None:
    for url, shown, expected in (
        ("redis://", "redis://localhost:6379", ("localhost", 6379, 0)),
        ("redis://h:1", "redis://h:1", ("h", 1, 0)),
        ("rediss://h:1/3", "rediss://h:1/3", ("h", 1, 3)),
        ("redis://u:p%40ss@h/2?prefix=x:", "redis://h:6379/2", ("h", 6379, 2)),
    ):
        address = RedisAddress(url)
        assert (address.shown, target(address)) == (shown, expected)


def test_options_are_ours_or_those_of_redis() -> None:
    plain, chosen = RedisAddress("redis://h"), RedisAddress("redis://h?prefix=mine:&journal_ttl_s=60&client_name=me")
    assert (plain.prefix, plain.journal_ttl_s) == ("ttc:", None)
    assert (chosen.prefix, chosen.journal_ttl_s) == ("mine:", 60)
    connection: Any = chosen.connection()
    assert connection.client_name == "me"


def test_user_and_password_reach_the_server_only() -> None:
    address = RedisAddress("rediss://someone:s%2Fecret@h:1")
    connection: Any = address.connection()
    assert (connection.username, connection.password) == ("someone", "s/ecret")
    assert "someone" not in address.shown
    assert "ecret" not in address.shown
    socket: Any = RedisAddress("unix://someone:secret@/run/redis.sock?db=4")
    assert socket.shown == "unix:///run/redis.sock"
    connection = socket.connection()
    assert (connection.path, connection.db, connection.password) == ("/run/redis.sock", 4, "secret")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://secret@h", "redis://host:port/0"),
        ("unix://", "redis://host:port/0"),
        ("redis://secret@h:x", "port"),
        ("redis://secret@h:70000", "port"),
        ("redis://:secret/x@h", "%2F"),
        ("redis://u:12/secret@h", "%2F"),
        ("redis://:12?secret@h", "%2F"),
        ("redis://:secret#x@h:1", "%23"),
        ("redis://secret@h/jobs", "'jobs'"),
        ("redis://secret@h?prefix=", "prefix"),
        ("redis://secret@h?prefix={x}", "prefix"),
        ("redis://secret@h?prefix=a*", "prefix"),
        ("redis://secret@h?journal_ttl_s=soon", "'soon'"),
        ("redis://secret@h?journal_ttl_s=0", "'0'"),
        ("redis://secret@h?nonsense=1", "nonsense"),
        ("redis://secret@h?db=x", "db"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_says_why(url: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RedisAddress(url)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value.fields())


def test_a_node_that_moved_is_on_the_same_host_if_none_is_named() -> None:
    address = RedisAddress("redis://h:1/0")
    address.move("", 2)
    assert target(address) == ("h", 2, 0)
    address.move("g", 3)
    address.move("", 4)
    assert target(address) == ("g", 4, 0)
    assert address.blocking_client().connection_pool.connection_kwargs["host"] == "g"


async def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("orchestrator.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without_redis(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "redis":
            raise ModuleNotFoundError("No module named 'redis'", name="redis")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(MissingDependency) as caught:
        await open_store("redis://h")
    assert "pip install 'ttc-orchestrator[service]'" in str(caught.value)


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("jobs.sqlite", "jobs.sqlite"),
        ("memory:", "memory:"),
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://:secret@h:1/2?prefix=x:", "redis://h:1/2"),
        ("rediss://u:sec/ret@h", "rediss://h"),
        ("redis://:sec?ret@h", "redis://..."),
        ("redis://h?password=s@ecret", "redis://..."),
        ("unix://u:secret@/run/redis.sock?db=4", "unix:///run/redis.sock"),
    ],
)
def test_commands_name_a_store_without_its_user_password_and_options(store: str, shown: str) -> None:
    assert shown_store(store) == shown
