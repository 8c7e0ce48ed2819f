"""`ttc bench load` against real servers: one that fails in known ways, and llama_cpp.server with SmolLM2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import RunningServer
from .load_server import CHUNK_S, FIRST_S, LoadServer
from .shell import Finished, Shell

pytestmark = pytest.mark.server

LOAD = ("bench", "load", "--input-tokens", "20", "--quiet", "--json")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[LoadServer]:
    with LoadServer(*getattr(request, "param", ())) as running:
        yield running


def burst_trace(folder: Path, *times_s: float, output_tokens: int = 5) -> str:
    path = folder / "trace.csv"
    rows = [f"{time_s},20,{output_tokens}" for time_s in times_s]
    path.write_text("\n".join(["Timestamp,Request tokens,Response tokens", *rows]) + "\n")
    return str(path)


def load(shell: Shell, server: LoadServer, *more: str, **options: Any) -> Finished:
    return shell(*LOAD, "--url", server.url, *more, **options)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def books_balance(counts: dict[str, int]) -> bool:
    return (
        counts["planned"] == counts["sent"] + counts["dropped"] + counts["not_sent"]
        and counts["sent"] == counts["completed"] + counts["failed"] + counts["in_flight_at_stop"]
    )


def test_latencies_are_at_least_the_delays_of_the_server_and_tokens_are_its_counts(shell: Shell, server: LoadServer):
    """A busy machine makes replies later, never earlier, than the server's sleeps."""
    done = load(shell, server, "--rate", "20", "--limit", "20", "--output-tokens", "6", "--slo", "ttft=60,e2e=0.001")
    assert done.code == 0, done.err
    figures = done.json["figures"]
    assert figures["counts"]["completed"] == 20
    latency = figures["latency_s"]
    assert FIRST_S <= latency["ttft"]["p50"] < FIRST_S + 2
    assert latency["tpot"]["p50"] >= CHUNK_S * 0.5  # late first chunks shorten what follows
    assert latency["e2e"]["p50"] >= FIRST_S + 5 * CHUNK_S
    assert latency["inter_chunk"]["count"] == 20 * 5
    assert figures["tokens"]["output"] == 120
    assert (figures["tokens"]["prompt"], figures["tokens"]["prompt_cached"]) == (180, 80)
    assert figures["tokens"]["num_requests_estimated"] == 0
    assert figures["goodput"]["missed_by_completed"] == {"ttft": 0, "e2e": 20}
    assert {body["max_tokens"] for body in server.bodies} == {6}


@pytest.mark.parametrize(
    "server",
    [("ok", "429", "broken", "500", "error", "early", "hang", "no_stream", "404", "uncounted")],
    indirect=True,
)
def test_every_failure_is_counted_by_its_kind(shell: Shell, server: LoadServer):
    done = load(
        shell, server, "--rate", "50", "--limit", "20", "--output-tokens", "3", "--timeout", "5", "--out", "out"
    )
    figures = done.json["figures"]
    assert {kind: each["count"] for kind, each in figures["errors"].items()} == {
        "http_429": 2,
        "broken_stream": 4,
        "http_5xx": 2,
        "server_error": 2,
        "timeout": 2,
        "no_stream": 2,
        "http_4xx": 2,
    }
    assert "as told" in figures["errors"]["http_429"]["first_message"]
    assert (figures["counts"]["completed"], figures["counts"]["failed"]) == (4, 16)
    assert books_balance(figures["counts"])
    assert figures["tokens"]["num_requests_estimated"] == 2
    found = rows(shell.folder / "out")
    assert sorted({row["status"] for row in found}, key=str) == [200, 404, 429, 500]
    assert (shell.folder / "out" / "load.md").exists()


@pytest.mark.parametrize("server", [("hang",)], indirect=True)
def test_a_server_that_hangs_does_not_delay_later_arrivals(shell: Shell, server: LoadServer):
    """Ten requests a tenth of a second apart, none of them ever answered: a closed loop would send one."""
    trace = burst_trace(shell.folder, *(number / 10 for number in range(10)))
    done = shell("bench", "load", "--url", server.url, "--trace", trace, "--timeout", "3", "--quiet", "--json")
    assert done.code == 6  # none was completed
    figures = done.json["figures"]
    assert figures["errors"]["timeout"]["count"] == 10
    assert figures["counts"]["peak_in_flight"] == 10
    assert server.arrivals[-1] - server.arrivals[0] < 2.9  # the last came before the first was given up
    assert done.err == ""


@pytest.mark.parametrize("server", [("hang",)], indirect=True)
def test_over_the_cap_requests_are_dropped_and_said_to_be(shell: Shell, server: LoadServer):
    trace = burst_trace(shell.folder, 0.0, 0.0, 0.0, 0.1)
    done = shell(
        *("bench", "load", "--url", server.url, "--trace", trace, "--timeout", "2", "--max-in-flight", "3", "--quiet")
    )
    assert "3 of 4 requests sent, 0 completed, 3 failed, 1 dropped because too many were in flight" in done.out
    assert len(server.bodies) == 3


@pytest.mark.parametrize("server", [("ok", "hang")], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_it_hangs_up_and_reports_what_was_seen(shell: Shell, server: LoadServer, number: signal.Signals):
    trace = burst_trace(shell.folder, 0.0, 0.0, 1000.0)
    process = shell.start("bench", "load", "--url", server.url, "--trace", trace, "--json", "--out", "out")
    deadline = time.monotonic() + 60
    while len(server.bodies) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    for _ in range(2):  # as GNU timeout does
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    result = json.loads(out)
    counts = result["figures"]["counts"]
    assert result["is_stopped"]
    assert (counts["sent"], counts["in_flight_at_stop"], counts["not_sent"]) == (2, 1, 1)
    assert counts["completed"] == 1
    assert books_balance(counts)
    assert [row["outcome"] for row in rows(shell.folder / "out")] == ["completed", "in_flight"]
    assert "stopping" in err
    assert "Traceback" not in err


def test_the_key_is_sent_and_never_shown(shell: Shell, server: LoadServer):
    server.behaviours = ("ok", "401")
    secret = "sk-very-secret"
    options = ("--rate", "50", "--limit", "4", "--out", "out")
    done = load(shell, server, *options, env={"TTC_BENCH_API_KEY": secret, "TTC_DEBUG": "1"})
    assert server.keys == {f"Bearer {secret}": 4}
    files = "".join(path.read_text() for path in (shell.folder / "out").iterdir() if path.suffix != ".png")
    assert secret not in done.out + done.err + shell.log + files


def test_the_key_of_openai_goes_to_no_other_host(shell: Shell, server: LoadServer):
    load(shell, server, "--rate", "50", "--limit", "2", env={"OPENAI_API_KEY": "sk-very-secret"})
    assert server.keys == {None: 2}


def test_an_extra_body_is_merged_and_null_removes_a_field(shell: Shell, server: LoadServer):
    extra = '{"ignore_eos": true, "stream_options": null}'
    done = load(shell, server, "--rate", "50", "--limit", "1", "--extra-body", extra)
    assert done.code == 0
    (body,) = server.bodies
    assert body["ignore_eos"] is True
    assert "stream_options" not in body
    assert body["model"] == "toy"


def test_a_server_that_is_not_there_is_said_before_anything_is_planned(shell: Shell):
    done = shell(*LOAD, "--url", "http://127.0.0.1:9/v1", "--rate", "1")
    assert done.code == 6
    assert "127.0.0.1:9" in json.loads(done.err)["error"]["message"]


def test_a_server_that_goes_away_makes_requests_refused(shell: Shell, server: LoadServer):
    trace = burst_trace(shell.folder, 0.0, 4.0)
    process = shell.start("bench", "load", "--url", server.url, "--trace", trace, "--json")
    deadline = time.monotonic() + 60
    while not server.bodies and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    server.stop()
    out, _ = process.communicate(timeout=60)
    figures = json.loads(out)["figures"]
    assert {kind: each["count"] for kind, each in figures["errors"].items()} == {"refused": 1}
    assert (process.returncode, figures["counts"]["completed"]) == (0, 1)


def test_too_few_open_files_are_refused_with_the_way_out(shell: Shell, server: LoadServer):
    words = shell.command("bench", "load", "--url", server.url, "--rate", "99", "--limit", "400")
    command = " ".join(f"'{word}'" for word in words)
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 200 && exec {command}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=shell.folder,
        env={**shell.env, "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 2
    assert "--max-in-flight 136" in done.stderr


@pytest.mark.model
@pytest.mark.timeout(300)
def test_a_real_model_is_measured_and_requests_that_it_interrupts_are_counted(
    shell: Shell, llama_cpp_server: RunningServer
):
    """llama_cpp.server breaks a reply off when the next request comes, so only the last one is sure to be completed."""
    trace = burst_trace(shell.folder, 0.0, 2.0, 4.0, output_tokens=6)
    done = shell(
        *(
            "bench",
            "load",
            "--url",
            llama_cpp_server.base_url,
            "--trace",
            trace,
            "--timeout",
            "120",
            "--quiet",
            "--json",
        )
    )
    assert done.code == 0, done.err
    figures = done.json["figures"]
    assert figures["counts"]["sent"] == 3
    assert figures["counts"]["completed"] >= 1
    assert set(figures["errors"]) <= {"broken_stream"}
    assert books_balance(figures["counts"])
    tokens = figures["tokens"]
    assert 1 <= tokens["output"] <= tokens["output_wanted_at_most"] + 3  # a chunk of text can be less than a token
    assert tokens["num_requests_estimated"] == figures["counts"]["completed"]  # this server counts no streams
    assert 0 < figures["latency_s"]["ttft"]["p50"] <= figures["latency_s"]["e2e"]["p50"]
