"""``/healthz`` and ``/readyz``: is the process alive, and would it serve a request."""

from __future__ import annotations

from fastapi import APIRouter, Response

from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.requests import HealthView

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> HealthView:
    """Whether the process answers."""
    return HealthView(status="ok")


@router.get("/readyz", responses={503: {"model": HealthView, "description": "Not now; `problems` says why"}})
async def readyz(service: ServiceOf, response: Response) -> HealthView:
    """Whether the store can be written, the models answer, and the service is not being stopped."""
    problems = await service.problems()
    if problems:
        response.status_code = 503
    return HealthView(status="not ready" if problems else "ok", problems=problems)
