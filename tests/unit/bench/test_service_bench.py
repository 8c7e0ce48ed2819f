"""What is read from wrk, what the model server says, and how two servers are compared."""

import json

import pytest

from orchestrator.bench.service import ratios
from orchestrator.bench.service_load import upstream, wrk

SAID = """Running 5s test @ http://127.0.0.1:8701/v1/chat/completions
  1 threads and 16 connections
  Latency Distribution
     50%  985.00us
     75%   55.12ms
     90%   60.00ms
     99%    1.95s
  310 requests in 5.01s, 412.00KB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 4
Requests/sec:     61.88
Transfer/sec:     82.23KB
"""


def test_latencies_of_wrk_are_milliseconds_whatever_its_unit():
    load = wrk.parsed(SAID)
    assert (load.p50_ms, load.p99_ms) == pytest.approx((0.985, 1950))
    assert (load.num_requests, load.seconds) == (310, 5.01)


def test_broken_connections_and_refusals_count_as_failures():
    assert wrk.parsed(SAID).num_failed == 7


def test_what_wrk_says_when_it_cannot_connect_is_no_load():
    with pytest.raises(ValueError, match="unable to connect"):
        wrk.parsed("unable to connect to 127.0.0.1:1 Connection refused")


def test_the_script_posts_the_body_as_it_is():
    body = {"messages": [{"content": 'say "]]" and \\boxed{1}'}]}
    _, _, rest = wrk.script(body).partition("[====[")
    assert json.loads(rest.partition("]====]")[0]) == body


def test_a_stream_says_the_same_as_a_whole_reply():
    told = json.loads(upstream.whole(1, 8))
    chunks = [json.loads(line[6:]) for line in upstream.streamed(1, 8).split(b"\n\n") if line.startswith(b"data: {")]
    texts = [""] * 8
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in told["choices"]]
    assert chunks[-1]["usage"] == told["usage"]
    assert sum(bool(chunk["choices"] and chunk["choices"][0]["finish_reason"]) for chunk in chunks) == 8


def test_the_majority_of_eight_samples_says_eleven_wherever_they_begin():
    for first in range(len(upstream.REPLIES)):
        texts = [choice["message"]["content"] for choice in json.loads(upstream.whole(first, 8))["choices"]]
        assert sum("{11}" in text for text in texts) > 4


class Transport(list):
    """Keeps what is written."""

    write = list.append


def test_requests_that_arrive_in_pieces_are_answered_one_by_one():
    connection, written = upstream.Upstream(), Transport()
    connection._transport, connection._read = written, b""
    body = b'{"n": 2}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    connection.data_received(request + request[:-3])
    assert len(written) == 1
    connection.data_received(request[-3:])
    assert len(written) == 2
    assert len(json.loads(written[1].partition(b"\r\n\r\n")[2])["choices"]) == 2


def row(server: str, clients: int, requests_per_s: float, cpu_ms: float) -> dict:
    return {
        "server": server,
        "clients": clients,
        "requests_per_s": {"median": requests_per_s},
        "cpu_ms": {"median": cpu_ms},
    }


def test_ours_are_compared_with_its_iaas_at_the_same_number_of_clients():
    rows = [row("ttc, SQLite", 1, 90, 5), row("ttc, SQLite", 16, 100, 4), row("its-iaas", 16, 25, 20)]
    assert ratios(rows) == {16: {"requests_per_s": 4, "cpu": 0.2}}
