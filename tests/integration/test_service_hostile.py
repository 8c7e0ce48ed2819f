"""The service against requests that no honest client sends: what comes of each, and that it goes on serving."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from .hostile_heads import HEADERS, METHODS, NAMES, PATHS
from .hostile_requests import ASKED, CHAT, CLOSED, ENCODINGS, NUMBERS, SHAPES, SIZES, Hostile, chat, get, job, post
from .service_command import Command, serving, until
from .shell import SCRIPTED, Shell

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]

TABLE = [*SIZES, *ENCODINGS, *SHAPES, *NUMBERS, *HEADERS, *METHODS, *PATHS, *NAMES]
MAX_GROWTH_BYTES = 96 << 20
"""How much larger the process may be after the whole table than after its first job."""


@dataclass(frozen=True)
class Served:
    """A service."""

    running: Command
    client: httpx.Client

    def connect(self) -> socket.socket:
        url = self.client.base_url
        return socket.create_connection((url.host, url.port or 0), timeout=20)

    def solves(self) -> bool:
        return self.client.post("/v1/jobs?wait=20", json=job()).json()["answer"] == "7"

    def bytes_held(self) -> int:
        lines = Path(f"/proc/{self.running.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


@dataclass(frozen=True)
class Reply:
    """What came back; status `CLOSED` if nothing did."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    limits = {"HEADER_TIMEOUT_S": "2", "BODY_TIMEOUT_S": "2", "MAX_WAIT_S": "20"}
    environment = {f"TTC_SERVICE__{name}": value for name, value in limits.items()}
    with serving(Shell(folder, environment), *SCRIPTED, "--store", str(folder / "jobs.sqlite")) as (running, client):
        found = Served(running, client)
        assert found.solves()
        size = found.bytes_held()
        yield found
        assert found.solves()
        assert found.bytes_held() - size < MAX_GROWTH_BYTES
        assert [line for line in running.lines if '"critical"' in line or "Traceback" in line] == []


def test_the_table_has_a_hundred_rows_and_no_two_of_one_name() -> None:
    assert len(TABLE) >= 100
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_hostile_request_is_answered_as_documented(served: Served, row: Hostile) -> None:
    with served.connect() as connection:
        reply = sent(connection, row.sent)
    assert reply.status in row.statuses, reply
    assert "set-cookie" not in reply.headers
    assert b"Traceback" not in reply.body
    assert b"root:" not in reply.body
    if reply.status >= 400:
        error = json.loads(reply.body)["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        assert error["message"]
        if row.field is not None:
            assert error["param"] == row.field
    assert served.client.get("/healthz").status_code == 200


def sent(connection: socket.socket, data: bytes) -> Reply:
    """Sends everything, as far as it is taken, and reads the answer."""
    with contextlib.suppress(ConnectionError):  # it may have heard enough
        connection.sendall(data)
    return received(connection)


def everything(connection: socket.socket, *, until: bytes = b"\0") -> bytes:
    """What comes until the other side closes the connection, or until something has come."""
    found = b""
    while until not in found and (chunk := connection.recv(65_536)):
        found += chunk
    return found


def received(connection: socket.socket) -> Reply:
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
    except (ConnectionError, http.client.BadStatusLine):
        return Reply(CLOSED, {}, b"")
    body = response.read()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def test_twenty_requests_in_one_packet_are_answered_in_their_order(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"".join(get(f"/v1/models/none-{number}") for number in range(20)))
        answers = everything(connection, until=b"none-19'").split(b"HTTP/1.1 ")[1:]
    assert len(answers) == 20
    for number, answer in enumerate(answers):
        assert answer.startswith(b"404")
        assert f"none-{number}'".encode() in answer


def test_what_follows_a_body_is_a_request_of_its_own(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(post(job()) + get("/v1/models/none"))
        answers = everything(connection, until=b"model 'none'")
    assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"202", b"404"]


def test_a_refused_body_is_not_read_as_a_request(served: Served) -> None:
    """What a proxy takes for the body of one request must not become a request of somebody else's."""
    hidden = get("/v1/models/hidden")
    both = post(b"0\r\n\r\n" + hidden, f"Content-Length: {5 + len(hidden)}", "Transfer-Encoding: chunked")
    with served.connect() as connection:
        connection.sendall(both)
        answers = everything(connection)
    assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"400"]
    assert b"hidden" not in answers


def test_clients_that_leave_in_the_middle_of_anything_leave_nothing_behind(served: Served) -> None:
    whole = post(chat(stream=True), to=CHAT)
    for number in range(60):
        with served.connect() as connection:
            connection.sendall(whole[: len(whole) * number // 40])
            if number % 2:  # a reset instead of an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: _num_unfinished(served) == 0, within_s=20)
    assert served.solves()


def _num_unfinished(served: Served) -> int:
    found = [served.client.get(f"/v1/jobs?state={state}").json()["data"] for state in ("queued", "running")]
    return sum(map(len, found))


def test_a_client_that_has_said_all_and_still_listens_is_answered_or_left(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(get("/v1/models"))
        connection.shutdown(socket.SHUT_WR)
        assert received(connection).status in {200, CLOSED}


def test_readers_that_do_not_read_keep_nobody_else_waiting(served: Served) -> None:
    big = served.client.post("/v1/jobs?wait=20", json=job(problem=ASKED + " " * 400_000)).json()["id"]
    lazy = [served.connect() for _ in range(30)]
    try:
        for connection in lazy:
            connection.sendall(get(f"/v1/jobs/{big}") * 20)
        started_at = time.monotonic()
        assert served.solves()
        assert time.monotonic() - started_at < 10
    finally:
        for connection in lazy:
            connection.close()


def test_one_byte_a_second_of_a_body_is_not_waited_for(served: Served) -> None:
    whole = post(job())
    started_at = time.monotonic()
    with served.connect() as connection:
        connection.settimeout(1)
        connection.sendall(whole[:-20])
        for byte in whole[-20:]:
            with contextlib.suppress(TimeoutError):
                reply = received(connection)
                break
            connection.sendall(bytes([byte]))
    assert reply.status == 408
    assert time.monotonic() - started_at < 10


def test_a_body_that_is_too_large_is_told_so_though_it_is_still_being_sent(served: Served) -> None:
    for _ in range(5):
        response = served.client.post("/v1/jobs", content=b"x" * 20_000_000)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"


def test_a_position_behind_the_end_of_a_job_ends_its_stream(served: Served) -> None:
    done = served.client.post("/v1/jobs?wait=20", json=job()).json()["id"]
    for headers in ({"Last-Event-ID": "999999999999999"}, {"Last-Event-ID": "-1"}, {}):
        response = served.client.get(f"/v1/jobs/{done}/events", headers=headers)
        assert response.status_code == 200
        assert ("event: final" in response.text) == (len(headers.get("Last-Event-ID", "")) < 3)


def test_a_job_that_calls_itself_a_response_is_shown_as_one(served: Served) -> None:
    labels = {"openai.model": "x" * 200, "openai.effort": "enormous", "openai.instructions": "", "metadata.a": "b"}
    done = served.client.post("/v1/jobs?wait=20", json=job(labels=labels)).json()["id"]
    response = served.client.get(f"/v1/responses/resp_{done}")
    assert response.status_code == 200
    again = {"model": "ttc/single", "input": ASKED, "previous_response_id": f"resp_{done}"}
    assert served.client.post("/v1/responses", json=again).status_code == 200


def test_the_largest_numbers_that_are_taken_can_be_carried(served: Served) -> None:
    caps = {"max_output_tokens": 2**53, "max_usd": 1e30, "max_seconds": 1e30, "max_flops": 1e30}
    body = job(budget=caps, deadline_s=1e30, seed=2**63 - 1, max_sample_tokens=1_000_000)
    assert served.client.post("/v1/jobs?wait=20", json=body).json()["answer"] == "7"


def test_a_batch_that_is_refused_leaves_no_job(served: Served) -> None:
    label = {"batch": "refused"}
    body = {"requests": [job(labels=label), job(labels=label), job(labels=label, policy="os:system")]}
    response = served.client.post("/v1/batches", json=body)
    assert response.status_code in {400, 404}
    assert all(found["labels"] != label for found in served.client.get("/v1/jobs").json()["data"])
