"""``/metrics``: for Prometheus, not for callers; who may read it is a setting."""

from __future__ import annotations

import hmac
import logging

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.api.service.observing.metrics import Metrics
from orchestrator.api.service.security.gate import is_loopback
from orchestrator.config import ServiceSettings
from orchestrator.errors import Forbidden, InvalidRequest, StoreFailed, Unauthorized
from orchestrator.store import JobState, Store

_LOG = logging.getLogger(__name__)


def metrics_router(metrics: Metrics, store: Store, settings: ServiceSettings) -> APIRouter:
    """The endpoint.

    Args:
        metrics: What it tells.
        store: Asked how many jobs wait, at each visit.
        settings: Who may read it.

    Raises:
        InvalidRequest: It is to be guarded by a token, and there is none.
    """
    if settings.metrics_access == "token" and settings.metrics_token is None:
        raise InvalidRequest(
            "service.metrics_access is 'token', but there is none: set TTC_SERVICE__METRICS_TOKEN",
            field="service.metrics_token",
        )
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def read_metrics(request: Request) -> Response:
        """All metrics as text."""
        _check_reader(request, settings)
        return Response(metrics.exposition(await _counts(store)), media_type=CONTENT_TYPE_LATEST)

    return router


def _check_reader(request: Request, settings: ServiceSettings) -> None:
    if settings.metrics_access == "loopback":
        peer = request.client
        if peer is not None and not is_loopback(peer.host):
            raise Forbidden("metrics are told to this machine only (service.metrics_access)")
    elif settings.metrics_access == "token":
        assert settings.metrics_token is not None, "checked when the router was made"
        wanted = f"Bearer {settings.metrics_token.get_secret_value()}"
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), wanted.encode()):
            raise Unauthorized("metrics are told to those who have their token (service.metrics_token)")


async def _counts(store: Store) -> dict[JobState, int] | None:
    """Without the store there are still all other metrics, and then they are wanted most."""
    try:
        return await store.count_jobs()
    except StoreFailed as error:
        _LOG.warning("the queue cannot be counted", extra={"reason": str(error)})
        return None
