"""Watches HTTP requests from the outside: their ids, one access line each, their counts, their spans."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.service.observing.context import REQUEST_ID, TRACE, request_id, trace_context
from orchestrator.api.service.observing.logs import ACCESS_LOG
from orchestrator.api.service.observing.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from orchestrator.api.service.observing.tracing import Tracing

REQUEST_ID_HEADER = "X-Request-Id"
CALLER = "ttc.caller"
"""Where the scope of a request keeps who sent it."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT = 499


class RequestWatch:
    """ASGI middleware; see the module.

    Args:
        app: What comes after it.
        metrics: Counts.
        tracing: Spans; None for none.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the request through and says what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        own_id = request_id(headers.get(REQUEST_ID_HEADER))
        status = _CLIENT_LEFT

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = own_id
            await send(message)

        started_at = time.perf_counter()
        marks = [(REQUEST_ID, REQUEST_ID.set(own_id))]
        with ExitStack() as ends, self._metrics.http_open.track_inprogress():
            span = self._begin(ends, scope["method"], headers)
            try:
                await self._app(scope, receive, watched_send)
            except Exception:
                status = 500
                raise
            finally:
                self._tell(scope, status, time.perf_counter() - started_at, span)
                for variable, token in marks:
                    variable.reset(token)

    def _begin(self, ends: ExitStack, method: str, headers: Headers) -> Span | None:
        if self._tracing is None:
            given = trace_context(headers)
            span = None
        else:
            span, given = ends.enter_context(self._tracing.request(method, headers))
        token = TRACE.set(given)
        ends.callback(TRACE.reset, token)
        return span

    def _tell(self, scope: Scope, status: int, seconds: float, span: Span | None) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = _route_of(scope)
        self._metrics.note_request(method, route, status, seconds)
        fields: dict[str, Any] = {  # Any: values of a log record
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
        }
        if (caller := scope.get(CALLER)) is not None:
            fields |= {"tenant": caller.tenant, "key_id": caller.key_id}
        if (job_id := scope.get("path_params", {}).get("job_id")) is not None:
            fields["job_id"] = str(job_id)
        ACCESS_LOG.info("request", extra=fields)
        if span is not None:
            span.update_name(f"{method} {route}")
            span.set_attributes(
                {"http.request.method": method, "http.route": route, "http.response.status_code": status}
            )


def _route_of(scope: Scope) -> str:
    """The template of the path, as ``/v1/jobs/{job_id}``: the path itself may hold anything."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "unmatched"
