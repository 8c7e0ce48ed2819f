"""What endpoints ask for beside the caller."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.api.service.service import Service


async def service_of(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]
