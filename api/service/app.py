"""The ASGI application: the routers, what they share, and how errors leave."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from orchestrator.api.service import batches, catalogue, docs, events, health, jobs
from orchestrator.api.service.dashboard.router import router as dashboard_router
from orchestrator.api.service.errors import install_error_handlers
from orchestrator.api.service.observing import Observing
from orchestrator.api.service.openai import chat, responses
from orchestrator.api.service.security import usage
from orchestrator.api.service.security.door import secure
from orchestrator.api.service.security.gate import Gate
from orchestrator.api.service.service import Service


def create_app(service: Service, *, gate: Gate | None = None, observing: Observing | None = None) -> FastAPI:
    """The application.

    Args:
        service: Open; whoever opened it closes it.
        gate: Who is let in; one over the service's store by default.
        observing: What watches the process, and is one of the service's observers; None for no metrics.
    """
    app = FastAPI(
        title="ttc-orchestrator",
        version=version("ttc-orchestrator"),
        description="Reasoning jobs under budgets that hold.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from what the caller says our name is
        generate_unique_id_function=lambda route: route.name,  # what functions of generated clients are called
    )
    app.state.service = service
    app.state.gate = gate or Gate(service.orchestrator.store, cache_s=service.settings.key_cache_s)
    for module in (chat, responses, jobs, events, batches, catalogue, health, usage, docs):  # tried in this order
        app.include_router(module.router)
    app.include_router(dashboard_router)
    docs.describe(app)
    install_error_handlers(app)
    secure(app, app.state.gate, service.settings)
    if observing is not None:
        observing.install(app, service.orchestrator.store, service.settings)
    return app
