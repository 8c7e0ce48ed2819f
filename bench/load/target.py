"""What load is sent to, as the sender sees it: text goes in, parts of the reply come out, failures have a kind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of a request as the server counts them."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Something that arrived.

    Attributes:
        has_content: It is text of the reply (or of the reasoning before it), not just bookkeeping.
        counts: The server's counts, where it tells them.
    """

    has_content: bool
    counts: TokenCounts | None = None


class TargetFailed(Exception):
    """A request failed.

    Attributes:
        kind: ``refused``, ``http_429``, ``http_5xx`` and the like, ``broken_stream``, ``server_error`` (told inside the
            stream), ``no_stream``; the sender adds ``timeout``.
        status: The HTTP status; None if there was none.
    """

    def __init__(self, kind: str, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


class Target(Protocol):
    """A service under load."""

    @property
    def name(self) -> str:
        """For reports: model and host."""
        ...

    def encoded(self, prompt: str, *, max_tokens: int) -> bytes:
        """A request, ready to be sent; made ahead of time."""
        ...

    def exchange(self, body: bytes) -> AsyncGenerator[Part, None]:
        """Sends a request at once, whatever else is in flight, and gives the parts of the reply as they arrive; ends
        when the reply is complete. Never tries again.

        Raises:
            TargetFailed: By the generator.
        """
        ...

    async def aclose(self) -> None:
        """Closes all connections."""
        ...
