from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from orchestrator.api.service.errors import install_error_handlers
from orchestrator.api.service.security import Gate, KeyBook
from orchestrator.api.service.security.door import secure
from orchestrator.config import ServiceSettings
from orchestrator.stores.memory import MemoryStore

LIMITS = ServiceSettings(max_body_bytes=2000, body_timeout_s=0.2, max_json_depth=8, max_json_items=1000)


def application(settings: ServiceSettings = LIMITS, store: MemoryStore | None = None, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/echo")
    async def look() -> str:
        return "seen"

    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'self'"})

    install_error_handlers(app)
    secure(app, Gate(store or MemoryStore(), **options), settings)
    return app


def client(app: FastAPI, *, host: str = "127.0.0.1:8000", peer: str = "127.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=(peer, 1234)), base_url=f"http://{host}", trust_env=False
    )


async def with_keys() -> MemoryStore:
    store = MemoryStore()
    await KeyBook(store).create("acme")
    return store


# -- bodies -------------------------------------------------------------------------------------------------------


async def test_a_body_arrives_as_it_was_sent_whole_or_in_pieces() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 200

    async with client(application()) as http:
        assert (await http.post("/echo", content=b"y" * 2000)).json() == {"bytes": 2000}
        assert (await http.post("/echo", content=pieces())).json() == {"bytes": 2000}
        assert (await http.post("/echo")).json() == {"bytes": 0}


async def test_a_body_that_is_too_long_is_refused_before_it_is_read() -> None:
    num_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_sent
        while True:
            num_sent += 1
            yield b"x" * 500

    async with client(application()) as http:
        told = await http.post("/echo", content=b"x" * 2001)
        untold = await http.post("/echo", content=endless())
    for response in (told, untold):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
        assert response.json()["error"]["max_bytes"] == 2000
        assert response.headers["connection"] == "close"
    assert num_sent <= 6 + 4 * 2000 // 500  # of what follows, four times the limit is thrown away


async def test_a_body_that_trickles_in_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.05)

    async with client(application()) as http:
        response = await http.post("/echo", content=slow())
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "request_timeout"


async def test_a_client_that_leaves_in_the_middle_of_its_body_gets_no_response() -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/echo",
        "raw_path": b"/echo",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", b"10")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
    }
    await application()(scope, receive, send)
    assert sent == []


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "\u0661", "9" * 500])
async def test_a_length_that_is_none_is_refused(length: str) -> None:
    async with client(application()) as http:
        response = await http.post("/echo", content=b"x", headers={"Content-Length": length.encode()})
    assert response.status_code in {400, 413}


@pytest.mark.parametrize("body", [b"[" * 9 + b"]" * 9, b"[" + b"0," * 999 + b"0,0]"[:4]])
async def test_json_that_is_deep_or_long_is_refused_in_openais_shape(body: bytes) -> None:
    settings = LIMITS.model_copy(update={"max_body_bytes": 100_000})
    async with client(application(settings)) as http:
        response = await http.post("/echo", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == "body"


# -- where requests come from -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000"])
async def test_an_open_service_answers_to_names_of_this_machine(host: str) -> None:
    async with client(application(), host=host) as http:
        assert (await http.get("/echo")).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "10.0.0.1", "localhost.evil.example", "0.0.0.0:8000"])
async def test_an_open_service_answers_to_no_other_name(host: str) -> None:
    async with client(application(), host=host) as http:
        response = await http.get("/echo")
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "forbidden"


async def test_an_open_service_does_not_answer_to_another_machine() -> None:
    async with client(application(), peer="192.168.1.7") as http:
        assert (await http.get("/echo")).status_code == 403
    async with client(application(), peer="fe80::1") as http:
        assert (await http.get("/echo")).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_foreign_page_cannot_change_anything_in_an_open_service(headers: dict[str, str]) -> None:
    async with client(application()) as http:
        assert (await http.post("/echo", headers=headers)).status_code == 403
        assert (await http.get("/echo", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://127.0.0.1:8000"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
async def test_the_services_own_page_and_programs_can(headers: dict[str, str]) -> None:
    async with client(application()) as http:
        assert (await http.post("/echo", headers=headers)).status_code == 200


async def test_with_keys_neither_host_nor_page_matter_since_browsers_do_not_send_keys_by_themselves() -> None:
    async with client(application(store=await with_keys()), host="api.example", peer="10.1.2.3") as http:
        assert (await http.post("/echo", headers={"Origin": "https://other.example"})).status_code == 200


async def test_only_allowed_hosts_are_answered_to_except_for_probes() -> None:
    settings = LIMITS.model_copy(update={"allowed_hosts": ("API.example",)})
    app = application(settings, store=await with_keys())
    async with client(app, host="api.example:443") as http:
        assert (await http.get("/echo")).status_code == 200
    async with client(app, host="10.0.0.9") as http:
        assert (await http.get("/echo")).status_code == 403
        assert (await http.get("/healthz")).status_code == 200


# -- headers of responses -----------------------------------------------------------------------------------------


async def test_cors_is_off_unless_an_origin_is_allowed() -> None:
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with client(application()) as http:
        refused = await http.options("/echo", headers=asking)
    assert "access-control-allow-origin" not in refused.headers
    settings = LIMITS.model_copy(update={"allowed_origins": ("https://app.example",)})
    async with client(application(settings)) as http:
        allowed = await http.options("/echo", headers=asking)
        posted = await http.post("/echo", headers={"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"})
        other = await http.options("/echo", headers=asking | {"Origin": "https://evil.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in allowed.headers
    assert posted.status_code == 200
    assert "access-control-allow-origin" not in other.headers


async def test_responses_say_what_browsers_may_do_with_them_unless_they_say_it_themselves() -> None:
    async with client(application()) as http:
        data, page, error = await http.get("/echo"), await http.get("/page"), await http.get("/nowhere")
    for response in (data, error):
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
    assert page.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert page.headers["referrer-policy"] == "no-referrer"
