"""The ASGI application: the routers, what they share, and how errors leave."""

from __future__ import annotations

from fastapi import FastAPI

from orchestrator.api.service.security.gate import Gate
from orchestrator.api.service.service import Service


def create_app(service: Service, *, gate: Gate | None = None) -> FastAPI:
    """The application.

    Args:
        service: Open; whoever opened it closes it.
        gate: Who is let in; one over the service's store by default.
    """
    app = FastAPI(title="ttc", version="1")
    app.state.service = service
    app.state.gate = gate or Gate(service.orchestrator.store)
    return app
