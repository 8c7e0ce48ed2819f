from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from orchestrator.api.service.observing import Observing, trace_labels
from orchestrator.api.service.observing.context import REQUEST_ID
from orchestrator.api.service.observing.logs import JsonFormatter
from orchestrator.api.service.observing.requests import CALLER
from orchestrator.api.service.security import Principal
from orchestrator.config import ServiceSettings
from orchestrator.stores.memory import MemoryStore

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("orchestrator.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def application(observing: Observing) -> FastAPI:
    app, router = FastAPI(), APIRouter(prefix="/v1")

    @router.get("/jobs/{job_id}")
    async def look(request: Request, job_id: str) -> dict[str, Any]:
        request.scope[CALLER] = Principal(tenant="acme", key_id="k1")
        return {"id": REQUEST_ID.get(), "labels": trace_labels()}

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the secret text of a prompt")

    app.include_router(router)
    observing.install(app, MemoryStore(), ServiceSettings())
    return app


def client(observing: Observing) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(observing), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def test_a_request_has_an_id_of_its_callers_or_of_ours(lines: io.StringIO) -> None:
    async with client(Observing()) as http:
        given = await http.get("/v1/jobs/j1", headers={"X-Request-Id": "abc-1.2:3"})
        ours = await http.get("/v1/jobs/j1")
        refused = await http.get("/v1/jobs/j1", headers={"X-Request-Id": "a b{}"})
        long = await http.get("/v1/jobs/j1", headers={"X-Request-Id": "a" * 129})
    assert given.headers["x-request-id"] == given.json()["id"] == "abc-1.2:3"
    assert len({response.headers["x-request-id"] for response in (ours, refused, long)}) == 3
    assert "{" not in refused.headers["x-request-id"]
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert told[0]["request_id"] == "abc-1.2:3"


async def test_each_request_is_one_line_that_holds_neither_path_nor_query(lines: io.StringIO) -> None:
    async with client(Observing()) as http:
        await http.get("/v1/jobs/j1?text=secret")
        await http.get("/secret/path?x=secret")
    known, unknown = (json.loads(line) for line in lines.getvalue().splitlines())
    assert {key: known[key] for key in ("method", "route", "status", "tenant", "key_id", "job_id")} == {
        "method": "GET",
        "route": "/v1/jobs/{job_id}",
        "status": 200,
        "tenant": "acme",
        "key_id": "k1",
        "job_id": "j1",
    }
    assert known["duration_ms"] >= 0
    assert (unknown["route"], unknown["status"]) == ("unmatched", 404)
    assert "secret" not in lines.getvalue()


async def test_requests_are_counted_by_template_and_status_also_those_that_break() -> None:
    observing = Observing()
    async with client(observing) as http:
        for number in range(3):
            await http.get(f"/v1/jobs/{number}")
        await http.get("/v1/broken")
        await http.request("BREW", "/v1/jobs/1")

    def count(method: str, route: str, status: str) -> float | None:
        labels = {"method": method, "route": route, "status": status}
        return observing.metrics.registry.get_sample_value("ttc_http_requests_total", labels)

    assert count("GET", "/v1/jobs/{job_id}", "200") == 3
    assert count("GET", "/v1/broken", "500") == 1
    assert count("other", "/v1/jobs/{job_id}", "405") == 1
    assert observing.metrics.registry.get_sample_value("ttc_http_open_requests") == 0


async def test_a_trace_that_comes_in_is_handed_to_jobs_even_where_traces_are_off() -> None:
    async with client(Observing()) as http:
        passed = await http.get("/v1/jobs/1", headers={"traceparent": PARENT, "tracestate": "a=b"})
        broken = await http.get("/v1/jobs/1", headers={"traceparent": "nonsense", "tracestate": "a=b"})
    assert passed.json()["labels"] == {"traceparent": PARENT, "tracestate": "a=b"}
    assert broken.json()["labels"] == {}
    assert trace_labels() == {}
