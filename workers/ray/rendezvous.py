"""Rendezvous hashing (highest random weight; Thaler and Ravishankar, 1998): who serves a key, without shared state.

Every process that knows the same replicas ranks them the same way for a key. A replica that goes moves only its own
keys, each to the next replica of its ranking; one that comes takes its share evenly from all.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def weight(key: bytes, replica: str) -> int:
    """The replica's weight for a key, uniform in [0, 2**64); ``key`` has at most 64 bytes."""
    digest = blake2b(replica.encode("utf-8", "surrogatepass"), digest_size=8, key=key)
    return int.from_bytes(digest.digest(), "big")


def ranked(key: bytes, replicas: Iterable[str]) -> list[str]:
    """The replicas by falling weight; the order in which they are given does not matter."""
    return sorted(replicas, key=lambda replica: (-weight(key, replica), replica))


def first(key: bytes, replicas: Iterable[str]) -> str:
    """The replica that serves a key; there has to be one."""
    return min(replicas, key=lambda replica: (-weight(key, replica), replica))
