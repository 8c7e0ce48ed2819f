"""Everything that watches one process, made once and put in its places: the runner's observers, the application."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from fastapi import FastAPI

from orchestrator.api.service.observing.context import mark_job
from orchestrator.api.service.observing.job_counts import JobCounts
from orchestrator.api.service.observing.logs import log_job
from orchestrator.api.service.observing.metrics import Metrics
from orchestrator.api.service.observing.requests import RequestWatch
from orchestrator.api.service.observing.scrape import metrics_router
from orchestrator.config import ServiceSettings
from orchestrator.errors import InvalidRequest
from orchestrator.runner import Observer
from orchestrator.store import Store

if TYPE_CHECKING:
    from orchestrator.api.service.observing.tracing import Tracing


class Observing:
    """What watches a process.

    Attributes:
        metrics: Its counts.
        observers: For the `Service` or the `Runner` of the process.
    """

    def __init__(self, *, tracing: Tracing | None = None) -> None:
        self.metrics = Metrics()
        self._tracing = tracing
        self.observers: list[Observer] = [mark_job, JobCounts(self.metrics), log_job]
        if tracing is not None:
            self.observers.append(tracing)

    @classmethod
    def from_environment(cls) -> Self:
        """With traces, if the standard ``OTEL_`` variables ask for them.

        Raises:
            MissingDependency: What they ask for is not installed.
            InvalidRequest: They cannot be understood.
        """
        if not any(name.startswith("OTEL_") for name in os.environ):
            return cls()
        from orchestrator.api.service.observing.tracing import tracing_from_environment

        return cls(tracing=tracing_from_environment())

    def install(self, app: FastAPI, store: Store, settings: ServiceSettings) -> None:
        """Adds ``/metrics``, and watches requests; what is added later is outside of it.

        Raises:
            InvalidRequest: The settings of ``/metrics`` contradict each other.
        """
        app.include_router(metrics_router(self.metrics, store, settings))
        app.add_middleware(RequestWatch, metrics=self.metrics, tracing=self._tracing)

    def serve_metrics(self, host: str, port: int) -> Callable[[], None]:
        """Serves the metrics of a process that has no application, such as a controller.

        Returns:
            What ends it.

        Raises:
            InvalidRequest: The address cannot be used.
        """
        from prometheus_client import start_http_server

        try:
            server, _ = start_http_server(port, host, registry=self.metrics.registry)
        except OSError as error:
            raise InvalidRequest(
                f"metrics cannot be served on {host}:{port}: {error.strerror}", field="metrics_port", value=port
            ) from error
        return server.shutdown

    def close(self) -> None:
        """Sends the spans that are left; may take seconds, so call it in a thread where others wait."""
        if self._tracing is not None:
            self._tracing.close()
