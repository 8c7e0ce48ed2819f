"""How long the clients wait for what: timeouts of requests, and pauses between polls."""

from __future__ import annotations

import httpx

IDLE_S = 60.0
"""A stream of events that says nothing for so long, heartbeats included, is taken for dead."""

_CONNECT_S = 10.0
_SHORTEST_POLL_S = 0.5
_PAUSE_S = 0.5


def timeouts(timeout_s: float, read_s: float) -> httpx.Timeout:
    """Of a request whose answer may take ``read_s`` seconds to begin, or to go on."""
    return httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S), read=read_s)


def pause_between_polls(polled_s: float) -> float:
    """Seconds to wait after a poll that took ``polled_s``: none, unless the service does not hold requests."""
    return 0.0 if polled_s >= _SHORTEST_POLL_S else _PAUSE_S
