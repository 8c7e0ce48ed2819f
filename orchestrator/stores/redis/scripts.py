"""The Lua scripts that Redis carries out, each as one indivisible step."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

_BOOKING = frozenset({"append", "create", "delete", "set_aside", "settle"})
"""Scripts that book, and so need the arithmetic of `lua/accounts.lua`."""
_NAMES = (
    *("admit", "append", "cancel", "check", "claim", "count", "create", "delete", "find", "get", "list"),
    *("list_documents", "mark", "put_document", "set_aside", "settle", "take"),
)


class Script(NamedTuple):
    """A script's text, and the digest by which Redis knows it once it has it."""

    text: bytes
    digest: bytes


class Scripts(dict[str, Script]):
    """All scripts by name, read from the package."""

    def __init__(self) -> None:
        super().__init__()
        folder = resources.files(__package__) / "lua"
        jobs, accounts = ((folder / f"{name}.lua").read_bytes() for name in ("jobs", "accounts"))
        for name in _NAMES:
            text = b"".join([jobs, accounts if name in _BOOKING else b"", (folder / f"{name}.lua").read_bytes()])
            self[name] = Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())
