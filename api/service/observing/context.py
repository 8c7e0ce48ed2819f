"""Which request and which job the running code works for: what log records are marked with."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import NamedTuple

from orchestrator.events import Event, Publish
from orchestrator.store import JobRecord

_TRACE_HEADERS = ("traceparent", "tracestate")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_TRACESTATE_CHARS = 512
_GIVEN = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class WorkingFor(NamedTuple):
    """A job.

    Attributes:
        job_id: Which.
        tenant: Whose.
    """

    job_id: str
    tenant: str


REQUEST_ID: ContextVar[str | None] = ContextVar("ttc_request_id", default=None)
"""Of the HTTP request that is being answered; jobs that were begun by it keep it."""
JOB: ContextVar[WorkingFor | None] = ContextVar("ttc_job", default=None)
TRACE: ContextVar[Mapping[str, str]] = ContextVar("ttc_trace", default=MappingProxyType({}))
"""W3C trace context of that request: ``traceparent`` and perhaps ``tracestate``."""


def request_id(given: str | None) -> str:
    """The caller's own id of a request where it can be used as one, else a new one."""
    return given if given is not None and _GIVEN.fullmatch(given) else uuid.uuid4().hex


def trace_labels() -> dict[str, str]:
    """Labels for a job that is asked for now, so that whoever runs it knows the trace it belongs to."""
    return dict(TRACE.get())


def trace_context(values: Mapping[str, str]) -> dict[str, str]:
    """The W3C trace context among headers or labels; empty if there is none that can be used."""
    found = {name: values[name] for name in _TRACE_HEADERS if name in values}
    if _TRACEPARENT.fullmatch(found.get("traceparent", "")) is None:
        return {}
    if len(found.get("tracestate", "")) > _MAX_TRACESTATE_CHARS:
        del found["tracestate"]
    return found


def mark_job(record: JobRecord) -> Publish:
    """An observer that marks the job's task, and what it starts, as working for it."""
    JOB.set(WorkingFor(record.id, record.tenant))
    return _nothing


def _nothing(_: Event) -> None:
    """Marking is all there is to do."""
