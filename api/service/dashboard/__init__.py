"""The dashboard: a page of static files that watches, submits and compares jobs over the service's own endpoints."""

from orchestrator.api.service.dashboard.router import router

__all__ = ["router"]
