"""Everything that watches one process, made once and put in its places: the runner's observers, the application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Self

from fastapi import FastAPI

from orchestrator.api.service.observing.context import mark_job
from orchestrator.api.service.observing.engines import EngineWatch
from orchestrator.api.service.observing.job_counts import JobCounts
from orchestrator.api.service.observing.logs import log_job
from orchestrator.api.service.observing.metrics import Metrics
from orchestrator.api.service.observing.requests import RequestWatch
from orchestrator.api.service.observing.scrape import metrics_router
from orchestrator.config import ServiceSettings
from orchestrator.errors import InvalidRequest
from orchestrator.fleet import Fleet
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

    @contextmanager
    def served(self, settings: ServiceSettings) -> Iterator[None]:
        """Serves the metrics of a process without an application, such as a controller, if a port is set for them.

        They are told to this machine only, unless `metrics_access` is ``open``.

        Raises:
            InvalidRequest: The port cannot be used, or is to be guarded by a token, which is not possible here.
        """
        port = settings.controller_metrics_port
        if port is None:
            yield
            return
        if settings.metrics_access == "token":
            raise InvalidRequest(
                "a controller's metrics cannot be guarded by a token; set service.metrics_access to loopback or open",
                field="service.metrics_access",
            )
        from prometheus_client import start_http_server

        host = "127.0.0.1" if settings.metrics_access == "loopback" else "0.0.0.0"  # noqa: S104  # as it was asked for
        try:
            server, _ = start_http_server(port, host, registry=self.metrics.registry)
        except OSError as error:
            raise InvalidRequest(
                f"metrics cannot be told on {host}:{port}: {error.strerror}; choose another port",
                field="service.controller_metrics_port",
                value=port,
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()

    @asynccontextmanager
    async def watching(self, fleet: Fleet) -> AsyncIterator[None]:
        """Brings what the engines count of themselves into the metrics, as long as the context lasts."""
        # Not in a task group, which would wrap what the context raises.
        watch = asyncio.create_task(EngineWatch(self.metrics, fleet.models).run(), name="engine metrics")
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    def close(self) -> None:
        """Sends the spans that are left; may take seconds, so call it in a thread where others wait."""
        if self._tracing is not None:
            self._tracing.close()
