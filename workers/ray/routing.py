"""What travels with every call to a replica beside the call itself: whose tree it is, and where it went.

A `Routing` is an argument of the call, so the request router, which runs in the caller's process, reads and fills in
the very object that the caller made, and the replica gets a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from orchestrator.engine import Prompt

_KEY_BYTES = 16


class ReplicaGone(Exception):
    """The one replica that a call was for is no longer there; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of a tree's prefixes that rides on the tree's next call.

    Attributes:
        caller: Who asked for it; numbers of different callers are not compared.
        number: Counts the caller's releases of this tree, from 1.
        keep: Prefixes on the way to these stay pinned.
    """

    caller: str
    number: int
    keep: tuple[Prompt, ...]


@dataclass(slots=True)
class Routing:
    """Where a call should go, and where it went.

    Attributes:
        tree_id: The tree it belongs to; empty for none.
        salt: The tenant's salt; trees of different salts are different trees.
        is_known: The caller has had answers for this tree before.
        release: To be carried out before the call.
        only: Id of the one replica that the call is for; `ReplicaGone` if it is no longer there.
        is_last: The tree is done with this call, and is forgotten.
        reason: Why it goes where it goes (`placing.Reason`); filled in by the router before the call is sent.
        replica: Id of the replica that took the call; filled in by the router before the caller sees an answer.
    """

    tree_id: str = ""
    salt: str = ""
    is_known: bool = False
    release: Release | None = None
    only: str = ""
    is_last: bool = False
    reason: str = ""
    replica: str = ""

    @property
    def key(self) -> bytes | None:
        """Names the tree; None where there is none."""
        return tree_key(self.tree_id, salt=self.salt) if self.tree_id else None


def tree_key(tree_id: str, *, salt: str = "") -> bytes:
    """16 bytes that name a tenant's tree: the same in every process, whatever is in the two texts."""
    parts = [text.encode("utf-8", "surrogatepass") for text in (salt, tree_id)]
    digest = blake2b(len(parts[0]).to_bytes(8, "big"), digest_size=_KEY_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()
