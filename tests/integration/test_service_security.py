"""`ttc serve` with API keys, as honest and as hostile clients meet it, and as operators watch it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.api.service.security import KeyBook, KeyLimits, NewKey
from orchestrator.budget import Budget
from orchestrator.stores import SqliteStore

from .service_command import Command, serving, until
from .shell import SCRIPTED, Shell

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]

PROBLEM = "What is 3 + 4?"
JOB: dict[str, Any] = {"problem": PROBLEM, "policy": "self_consistency", "params": {"n": 3}}
SECRET_TEXT = "a text that nobody but its owner reads"


def made(store: Path, *tenants: str, **options: Any) -> list[NewKey]:
    async def work() -> list[NewKey]:
        opened = SqliteStore(store)
        try:
            return [await KeyBook(opened).create(tenant, **options) for tenant in tenants]
        finally:
            await opened.aclose()

    return asyncio.run(work())


def revoke(store: Path, key: NewKey) -> None:
    async def work() -> None:
        opened = SqliteStore(store)
        try:
            await KeyBook(opened).revoke(key.record.id)
        finally:
            await opened.aclose()

    asyncio.run(work())


def bearer(key: NewKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.text}"}


@dataclass
class Served:
    """A service with keys of two tenants."""

    running: Command
    client: httpx.Client
    store: Path
    acme: NewKey
    zeta: NewKey

    def connect(self) -> socket.socket:
        url = self.client.base_url
        return socket.create_connection((url.host, url.port or 0), timeout=15)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    store = folder / "jobs.sqlite"
    acme, zeta = made(store, "acme", "zeta")
    limits = {"HEADER_TIMEOUT_S": "1", "BODY_TIMEOUT_S": "1", "MAX_BODY_BYTES": "20000", "KEY_CACHE_S": "1"}
    environment = {f"TTC_SERVICE__{name}": value for name, value in limits.items()}
    with serving(Shell(folder, environment), *SCRIPTED, "--store", str(store)) as (running, client):
        yield Served(running, client, store, acme, zeta)


# -- who is let in ------------------------------------------------------------------------------------------------


def test_without_a_key_or_with_a_wrong_one_nothing_is_told(served: Served) -> None:
    wrong = str(served.acme.text)[:-2] + "zz"
    for headers in ({}, {"Authorization": f"Bearer {wrong}"}, {"Authorization": "Basic YTpi"}):
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/usage"), ("GET", "/v1/models")):
            response = served.client.request(method, path, headers=headers, json=JOB if method == "POST" else None)
            assert response.status_code == 401, path
            assert response.json()["error"]["type"] == "authentication_error"
            assert response.headers["www-authenticate"] == "Bearer"
    assert served.client.get("/healthz").status_code == 200


def test_another_tenants_job_does_not_exist(served: Served) -> None:
    job = served.client.post("/v1/jobs?wait=10", json=JOB, headers=bearer(served.acme)).json()
    assert job["answer"] == "7"
    nobodys = job["id"][::-1]
    made_up = served.client.get(f"/v1/jobs/{nobodys}", headers=bearer(served.zeta))
    for method, path in (
        ("GET", f"/v1/jobs/{job['id']}"),
        ("DELETE", f"/v1/jobs/{job['id']}"),
        ("GET", f"/v1/jobs/{job['id']}/events"),
        ("GET", f"/v1/jobs/{job['id']}/tree"),
        ("GET", f"/v1/jobs/{job['id']}/usage"),
    ):
        response = served.client.request(method, path, headers=bearer(served.zeta))
        assert response.status_code == made_up.status_code == 404, path
        assert response.text.replace(job["id"], nobodys) == made_up.text
    assert job["id"] not in served.client.get("/v1/jobs", headers=bearer(served.zeta)).text
    assert job["id"] in served.client.get("/v1/jobs", headers=bearer(served.acme)).text


def test_the_same_idempotency_key_of_two_tenants_is_two_jobs(served: Served) -> None:
    ids = {
        served.client.post("/v1/jobs", json=JOB, headers={**bearer(key), "Idempotency-Key": "same"}).json()["id"]
        for key in (served.acme, served.zeta, served.acme)
    }
    assert len(ids) == 2


def test_a_revoked_key_stops_working_within_the_cache_time(served: Served) -> None:
    (key,) = made(served.store, "acme")
    assert served.client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    revoke(served.store, key)
    revoked_at = time.monotonic()
    until(lambda: served.client.get("/v1/jobs", headers=bearer(key)).status_code == 401, within_s=5)
    assert time.monotonic() - revoked_at < 4


def test_a_rate_is_kept_and_says_when_to_come_back(served: Served) -> None:
    (key,) = made(served.store, "slow", limits=KeyLimits(rate_per_s=0.01, burst=2))
    responses = [served.client.post("/v1/jobs", json=JOB, headers=bearer(key)) for _ in range(3)]
    assert [response.status_code < 300 for response in responses] == [True, True, False]
    assert responses[2].status_code == 429
    assert 1 <= int(responses[2].headers["retry-after"]) <= 100
    assert responses[2].json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("policy", ["os:getcwd", "antigravity:main", "subprocess:run", "../x", "single "])
def test_no_caller_can_name_code_as_a_policy(served: Served, policy: str) -> None:
    for path, body in (
        ("/v1/jobs", JOB | {"policy": policy}),
        (
            "/v1/chat/completions",
            {"model": f"ttc/{policy}", "messages": [{"role": "user", "content": PROBLEM}]},
        ),
        (
            "/v1/chat/completions",
            {"model": "ttc/auto", "messages": [{"role": "user", "content": PROBLEM}], "ttc": {"policy": policy}},
        ),
    ):
        response = served.client.post(path, json=body, headers=bearer(served.acme))
        assert response.status_code in {400, 404}, response.text


def test_a_pattern_of_a_callers_is_not_searched(served: Served) -> None:
    response = served.client.post("/v1/jobs", json=JOB | {"answer": "regex:(a+)+$"}, headers=bearer(served.acme))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "answer"


# -- what is sent -------------------------------------------------------------------------------------------------


def test_slow_headers_are_cut_off(served: Served) -> None:
    with served.connect() as connection:
        started_at = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert _closes(connection, feeding=b"a")
        assert time.monotonic() - started_at < 8


def test_a_connection_that_says_nothing_is_closed(served: Served) -> None:
    with served.connect() as connection:
        assert _closes(connection)


def test_a_second_request_on_a_connection_has_to_arrive_in_time_too(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come one after the other
            answer += connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        assert _closes(connection, feeding=b"t")


def test_a_body_that_trickles_in_is_answered_with_408_and_no_more_of_it_is_read(served: Served) -> None:
    with served.connect() as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{_headers(served.acme)}Content-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        received = _received(connection, feeding=b"{")
    assert received.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in received


def test_too_large_a_body_is_answered_with_413_whether_it_says_so_or_not(served: Served) -> None:
    told = served.client.post("/v1/jobs", content=b"x" * 20_001, headers=bearer(served.acme))
    assert told.status_code == 413
    with served.connect() as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n{_headers(served.acme)}Transfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        received = _received(connection, feeding=b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    assert received.startswith(b"HTTP/1.1 413")


def test_large_headers_are_refused(served: Served) -> None:
    with served.connect() as connection:
        try:
            connection.sendall(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n"
            )
            received = connection.recv(10_000)
        except ConnectionError:
            received = b""
    assert received == b"" or received.startswith(b"HTTP/1.1 4")
    assert served.client.get("/healthz").status_code == 200


HOSTILE = [
    b"[" * 10_000,
    b'{"problem":' * 500,
    b'{"problem": "x", "params": {' + b",".join(b'"k%d": 0' % number for number in range(1200)) + b"}}",
    b'{"problem": "\\ud800"}',
    b'{"problem": "x", "seed": 1e999}',
    b'{"problem": "x", "seed": ' + b"9" * 5000 + b"}",
    b'{"problem": "x", "params": {"n": NaN}}',
    b'{"problem": "x", "budget": {"max_usd": Infinity}}',
    b'{"problem": "x", "budget": "tokens=1,tokens=2"}',
    b'{"problem": "x", "__proto__": {"a": 1}}',
    b'{"problem": ""}',
    b"\xff\xfe{",
    b"null",
    b"[]",
    b'"problem"',
    b"",
    '{"problem": "x"}'.encode("utf-16"),
    b'{"problem": "x", "labels": {"a": 1}}',
    b'{"problem": "x", "deadline_s": -1}',
    b'{"problem": "x", "sampling": {"temperature": "hot"}}',
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_body_is_the_callers_fault(served: Served, body: bytes) -> None:
    for path in ("/v1/jobs", "/v1/chat/completions", "/v1/batches"):
        response = served.client.post(
            path, content=body, headers={**bearer(served.acme), "Content-Type": "application/json"}
        )
        assert 400 <= response.status_code < 500, (path, response.status_code, response.text)
        assert response.json()["error"]["message"]
        assert "Traceback" not in response.text


def _headers(key: NewKey) -> str:
    return f"Authorization: Bearer {key.text}\r\nContent-Type: application/json\r\n"


def _closes(connection: socket.socket, *, feeding: bytes = b"") -> bool:
    return _received(connection, feeding=feeding) == b""


def _received(connection: socket.socket, *, feeding: bytes) -> bytes:
    """What comes until the other side closes the connection, which is fed a little all the time."""
    connection.settimeout(0.2)
    received = b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if feeding and not received:
                connection.sendall(feeding)
            chunk = connection.recv(65_536)
            if not chunk:
                return received
            received += chunk
        except TimeoutError:
            continue
        except ConnectionError:
            return received
    raise AssertionError(f"the connection stays open: {received!r}")


# -- what it costs and what is seen of it -------------------------------------------------------------------------


def test_the_caps_of_a_key_hold_over_processes_and_their_metrics_add_up(tmp_path: Path) -> None:
    store = tmp_path / "jobs.sqlite"
    (key,) = made(store, "acme", limits=KeyLimits(per_day=Budget(max_output_tokens=1000)), is_admin=True)
    shell = Shell(tmp_path)
    with serving(shell, *SCRIPTED, "--store", str(store), "--workers", "2") as (_, client):

        def ask(number: int) -> httpx.Response:
            with httpx.Client(base_url=client.base_url, timeout=30) as own:  # a connection of its own: any process
                body = JOB | {"seed": number, "budget": "tokens=90"}
                return own.post("/v1/jobs?wait=20", json=body, headers=bearer(key))

        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(ask, range(60)))
        answered = [response.json() for response in responses if response.status_code < 300]
        refused = [response.json()["error"] for response in responses if response.status_code == 402]
        rows = client.get("/v1/usage?days=1", headers=bearer(key)).json()["data"]
        ended = sum(
            float(line.rpartition(" ")[2])
            for line in client.get("/metrics").text.splitlines()
            if line.startswith("ttc_jobs_total")
        )
    assert len(answered) + len(refused) == 60
    assert refused
    assert {error["code"] for error in refused} == {"budget_exhausted"}
    spent = sum(job["usage"]["output_tokens"] for job in answered)
    assert {row["period"]: row["spent"]["output_tokens"] for row in rows}["total"] == spent <= 1000
    assert all(row["set_aside"]["output_tokens"] == 0 for row in rows)
    assert spent > 500
    assert ended == len(answered)


def test_neither_logs_nor_traces_nor_metrics_hold_a_secret_or_a_text(tmp_path: Path) -> None:
    store = tmp_path / "jobs.sqlite"
    (key,) = made(store, "acme")
    trace_id = "0123456789abcdef0123456789abcdef"
    headers = bearer(key) | {"traceparent": f"00-{trace_id}-0123456789abcdef-01", "X-Request-Id": "req-7"}
    shell = Shell(tmp_path, {"OTEL_TRACES_EXPORTER": "console"})
    with serving(shell, *SCRIPTED, "--store", str(store)) as (running, client):
        body = JOB | {"problem": f"{SECRET_TEXT}: {PROBLEM}", "labels": {"note": SECRET_TEXT}}
        response = client.post("/v1/jobs?wait=10", json=body, headers=headers)
        client.get(f"/{SECRET_TEXT}/{key.text}?key={key.text}")
        metrics = client.get("/metrics").text
        assert running.stop() == 0
    assert response.json()["answer"] == "7"
    assert response.headers["x-request-id"] == "req-7"
    told = "\n".join([*running.lines, metrics])
    assert key.text.secret not in told
    assert SECRET_TEXT not in told
    assert "boxed" not in told
    lines = [json.loads(line) for line in running.lines if line.startswith('{"time"')]
    access = [line for line in lines if line["logger"] == "orchestrator.access" and line.get("request_id") == "req-7"]
    assert [(line["route"], line["status"], line["tenant"]) for line in access] == [("/v1/jobs", 200, "acme")]
    ended = [line for line in lines if line["message"] == "job ended"]
    assert [(line["job_id"], line["state"]) for line in ended] == [(response.json()["id"], "succeeded")]
    assert told.count(trace_id) >= 4  # the request, the job, an action and its call


def test_many_connections_that_say_nothing_do_not_keep_others_out(served: Served) -> None:
    idle = [served.connect() for _ in range(200)]
    try:
        started_at = time.monotonic()
        assert served.client.post("/v1/jobs?wait=10", json=JOB, headers=bearer(served.acme)).json()["answer"] == "7"
        assert time.monotonic() - started_at < 8
        until(lambda: all(_is_closed(connection) for connection in idle), within_s=10)
    finally:
        for connection in idle:
            connection.close()


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
