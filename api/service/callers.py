"""The caller of a request, as a dependency of endpoints: ``async def endpoint(who: Caller)``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.api.service.security.gate import Gate
from orchestrator.api.service.security.principal import Principal

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


async def caller(request: Request) -> Principal:
    """Who calls; the gate is ``app.state.gate``.

    Raises:
        Unauthorized: There is no key, or it is not valid.
        TooManyRequests: The key's rate is used up.
    """
    gate: Gate = request.app.state.gate
    return await gate.admit(request.headers.get("authorization"), is_reading=request.method in _READING)


Caller = Annotated[Principal, Depends(caller)]
"""Write ``who: Caller`` in an endpoint; tests put another one in with ``app.dependency_overrides[caller]``."""
