"""The caller of a request, as a dependency of endpoints: ``async def endpoint(who: Caller)``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from orchestrator.api.service.observing.requests import CALLER
from orchestrator.api.service.security.door import SAFE_METHODS
from orchestrator.api.service.security.gate import Gate
from orchestrator.api.service.security.principal import Principal

_BEARER = HTTPBearer(
    auto_error=False, scheme_name="API key", description="An API key: ttc_...; none where the service has no keys"
)
"""Says in the OpenAPI document how callers show who they are; the gate looks at the header itself."""


async def caller(request: Request, _: Annotated[object, Depends(_BEARER)] = None) -> Principal:
    """Who calls; the gate is ``app.state.gate``.

    Raises:
        Unauthorized: There is no key, or it is not valid.
        TooManyRequests: The key's rate is used up.
    """
    gate: Gate = request.app.state.gate
    who = await gate.admit(request.headers.get("authorization"), is_reading=request.method in SAFE_METHODS)
    request.scope[CALLER] = who
    return who


Caller = Annotated[Principal, Depends(caller)]
"""Write ``who: Caller`` in an endpoint; tests put another one in with ``app.dependency_overrides[caller]``."""
