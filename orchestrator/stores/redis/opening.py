"""Whether a Redis server can keep a store, and keeps what it is told."""

from __future__ import annotations

import logging

from orchestrator.errors import StoreFailed
from orchestrator.store import SCHEMA_VERSION
from orchestrator.stores.redis.calls import Calls

_LOG = logging.getLogger(__name__)

_OLDEST = (6, 2)
"""Version of Redis."""


async def check_server(calls: Calls, shown: str) -> None:
    """Looks at the server and marks the store's data with its version; warns of settings that lose data.

    Raises:
        StoreFailed: It cannot be reached, is too old, or has data of a later version.
    """
    facts = _facts(await calls.read("INFO"))
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise StoreFailed(f"the store {shown!r} is Redis {version}; at least {oldest} is needed", url=shown)
    _warn(facts, shown)
    schema = await calls.script("mark", SCHEMA_VERSION)
    if int(schema) > SCHEMA_VERSION:
        raise StoreFailed(
            f"the store {shown!r} was written by a later version of ttc (schema {int(schema)}, this one knows "
            f"{SCHEMA_VERSION}); upgrade ttc-orchestrator",
            url=shown,
            schema_version=int(schema),
        )


def _facts(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, sign, value in lines if sign}


def _warn(facts: dict[str, str], shown: str) -> None:
    if facts.get("aof_enabled") == "0":
        _LOG.warning(
            "the store %r keeps no append-only file: what was acknowledged is lost when redis-server stops; "
            "set appendonly yes (and appendfsync always, to lose nothing)",
            shown,
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if facts.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
        _LOG.warning("the store %r may throw jobs away (maxmemory-policy %s); set noeviction", shown, policy)
