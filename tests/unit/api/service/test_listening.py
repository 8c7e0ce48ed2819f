from __future__ import annotations

import select
import socket
import sys

import pytest

from orchestrator.api.service.process import listening_socket, own_listener
from orchestrator.errors import InvalidRequest

LOCAL = "127.0.0.1"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes accept from one socket")
def test_connections_are_spread_over_processes_that_share_an_address() -> None:
    keeper = listening_socket(LOCAL, 0, is_shared=True)
    address = keeper.getsockname()
    listeners = [own_listener(keeper.dup()) for _ in range(2)]
    clients = [socket.create_connection(address, timeout=5) for _ in range(64)]
    waiting, _, _ = select.select(listeners, [], [], 5)
    assert len(waiting) == 2
    for one in (*clients, *listeners, keeper):
        one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes accept from one socket")
def test_nobody_connects_to_what_only_keeps_the_address() -> None:
    with listening_socket(LOCAL, 0, is_shared=True) as keeper, pytest.raises(ConnectionRefusedError):
        socket.create_connection(keeper.getsockname(), timeout=5)


@pytest.mark.parametrize("is_shared", [False, True])
def test_an_address_that_another_service_has_is_refused(is_shared: bool) -> None:
    with listening_socket(LOCAL, 0) as taken, pytest.raises(InvalidRequest, match="--port"):
        listening_socket(LOCAL, taken.getsockname()[1], is_shared=is_shared)


def test_an_address_that_processes_share_is_refused_to_others() -> None:
    keeper = listening_socket(LOCAL, 0, is_shared=True)
    with own_listener(keeper.dup()) as listener, pytest.raises(InvalidRequest, match="--port"):
        listening_socket(LOCAL, listener.getsockname()[1], is_shared=True)
    keeper.close()
