"""The HTTP client against a real service: jobs, events across crashes, cancellation, batches, chats."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import Budget, JobState, Message, Sampling
from orchestrator.client import AsyncClient, Client
from orchestrator.errors import InvalidRequest, JobConflict, ServiceFailed, UnknownName
from orchestrator.events import Event
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

from .app_in_thread import Running, running_app

pytestmark = pytest.mark.server

PROBLEM = "What is 3 + 4 * 2?"


@pytest.fixture(scope="module")
def app() -> Iterator[Running]:
    engine = ScriptedEngine(arithmetic(), latency=Latency(token_s=0.002), tokens_per_delta=2)
    with running_app(engine) as running:
        yield running


@pytest.fixture
def client(app: Running) -> Iterator[Client]:
    with Client(app.address) as client:
        yield client


def durable(events: list[Event]) -> list[int]:
    return [event.seq for event in events if event.seq is not None]


def test_a_job_is_solved_and_told_of(client: Client):
    events: list[Event] = []
    result = client.solve(
        PROBLEM,
        policy="self_consistency",
        params={"n": 3},
        budget=Budget(max_output_tokens=2000),
        on_event=events.append,
    )
    assert (result.text, result.num_samples) == ("11", 3)
    assert 0 < result.usage.output_tokens <= 2000
    assert result.budget == Budget(max_output_tokens=2000)
    assert durable(events) == list(range(len(durable(events))))
    assert events[-1].kind == "final"
    assert any(event.kind == "delta" for event in events)
    assert client.usage(result.job_id).output_tokens == result.usage.output_tokens
    assert client.tree(result.job_id)


def test_messages_and_sampling_reach_the_job(client: Client):
    messages = [Message("system", "Be brief."), Message("user", PROBLEM)]
    job = client.submit(
        PROBLEM, policy="single", messages=messages, sampling=Sampling(temperature=0.5), labels={"a": "b"}
    )
    assert client.wait(job.id).state is JobState.SUCCEEDED
    assert client.job(job.id).data["labels"] == {"a": "b"}


def test_events_may_be_read_again_from_any_point(client: Client):
    job_id = client.submit(PROBLEM).id
    everything = durable(list(client.events(job_id)))
    middle = everything[len(everything) // 2]
    assert durable(list(client.events(job_id, after=middle))) == everything[middle + 1 :]


def test_the_same_key_is_the_same_job_and_another_request_with_it_is_refused(client: Client):
    first = client.submit(PROBLEM, idempotency_key="mine")
    assert client.submit(PROBLEM, idempotency_key="mine").id == first.id
    with pytest.raises(JobConflict):
        client.submit("What is 1 + 1?", idempotency_key="mine")


def test_what_the_service_refuses_is_the_error_that_it_is_in_process(client: Client):
    with pytest.raises(UnknownName) as unknown:
        client.submit(PROBLEM, policy="nope")
    assert (unknown.value.kind, unknown.value.name) == ("policy", "nope")
    assert "single" in unknown.value.known
    with pytest.raises(InvalidRequest):
        client.submit(PROBLEM, budget="tokens=many")
    with pytest.raises(UnknownName):
        client.job("0" * 20)


def test_leaving_a_stream_ends_the_job_within_a_moment(client: Client, app: Running):
    stream = client.stream(PROBLEM, policy="self_consistency", params={"n": 64})
    job_id = next(stream).data["job_id"]
    while next(stream).kind != "delta":
        pass
    stream.close()
    job = client.wait(job_id, timeout_s=5.0)
    assert job.state is JobState.CANCELLED
    assert job.outcome().usage.output_tokens < 64 * 30


def test_jobs_are_listed_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch):
    from orchestrator.client import calls

    ids = [client.submit(PROBLEM, policy="single").id for _ in range(5)]
    for job_id in ids:
        client.wait(job_id)
    monkeypatch.setattr(calls, "PAGE_SIZE", 2)
    listed = [job.id for job in client.jobs(state=JobState.SUCCEEDED)]
    assert listed[:5] == ids[::-1]
    assert len(listed) == len(set(listed))


def test_a_batch_shares_its_budget(client: Client):
    problems = [f"What is {number} + 1?" for number in range(4)]
    results = list(client.batch(problems, policy="single", budget=Budget(max_output_tokens=2000)))
    assert [result.text for result in results] == ["1", "2", "3", "4"]
    assert all(result.budget.max_output_tokens == 500 for result in results)


def test_what_there_is(client: Client):
    assert "self_consistency" in [policy.name for policy in client.policies()]
    assert "ttc/auto" in [model.id for model in client.models()]


def test_a_chat_is_streamed_and_whole(client: Client):
    body = {"model": "ttc/single", "messages": [{"role": "user", "content": PROBLEM}]}
    whole = client.chat(body)["choices"][0]["message"]["content"]
    chunks = list(client.chat_stream(body))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]) == whole
    assert len(chunks) > 3
    with pytest.raises(UnknownName):
        list(client.chat_stream({**body, "model": "nope"}))


def test_leaving_a_chat_ends_its_job_within_a_moment(client: Client, app: Running):
    body = {"model": "ttc/self_consistency", "messages": [{"role": "user", "content": PROBLEM}]}
    stream = client.chat_stream({**body, "ttc": {"params": {"n": 64}, "progress": "reasoning"}})
    next(stream)
    assert app.orchestrator.running
    stream.close()
    end = time.monotonic() + 5
    while app.orchestrator.running:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_client_serves_many_threads(client: Client):
    results: list[str | None] = []

    def work(number: int) -> None:
        results.append(client.solve(f"What is {number} + 1?", policy="single").text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=lambda text: int(text or 0)) == [str(number + 1) for number in range(8)]


async def test_the_asynchronous_client_does_the_same(app: Running):
    async with AsyncClient(app.address) as client:
        async with asyncio.TaskGroup() as tasks:
            solving = [tasks.create_task(client.solve(f"What is {n} + 1?", policy="single")) for n in range(4)]
        assert [task.result().text for task in solving] == ["1", "2", "3", "4"]
        events = [event async for event in client.stream(PROBLEM, policy="single")]
        assert events[-1].data["result"].text == "11"
        job_id = events[0].data["job_id"]
        assert durable(events) == durable([event async for event in client.events(job_id)])
        with pytest.raises(UnknownName):
            await client.solve(PROBLEM, policy="nope")


async def test_a_cancelled_task_ends_its_job(app: Running):
    async with AsyncClient(app.address) as client:
        started = asyncio.Event()
        ids: list[str] = []

        def note(event: Event) -> None:
            started.set()

        work = client.solve(PROBLEM, policy="self_consistency", params={"n": 64}, on_event=note, labels={"who": "me"})
        task = asyncio.create_task(work)
        await started.wait()
        async for job in client.jobs(state=JobState.RUNNING):
            ids.append(job.id)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (job_id,) = ids
        assert (await client.wait(job_id, timeout_s=5.0)).state is JobState.CANCELLED


# -- crashes ---------------------------------------------------------------------------------------------------


class Server:
    """``ttc serve`` as a process that may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "orchestrator.api.cli", "serve", "--port", str(self.port)]
        command += ["--model", "scripted:arithmetic,token_s=0.01", "--store", str(self._folder / "jobs.db")]
        with (self._folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "HOME": str(self._folder)}
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()


def test_a_stream_goes_on_without_gap_or_repeat_when_the_service_is_killed_and_started_again(server: Server):
    with Client(server.address, max_retries=99, sleep=lambda seconds: time.sleep(min(seconds, 0.3))) as client:
        job_id = client.submit(PROBLEM, policy="self_consistency", params={"n": 6}).id
        events: list[Event] = []
        has_died = False
        for event in client.events(job_id):
            events.append(event)
            if event.kind == "mark" and not has_died:
                has_died = True
                server.kill()
                threading.Timer(0.5, server.start).start()
        assert has_died
        seqs = durable(events)
        assert seqs == list(range(len(seqs)))
        assert events[-1].kind == "final"
        result = client.job(job_id).outcome()
        assert result.text == "11"
        assert result.usage.lost_tokens > 0
        again = [(event.seq, event.kind) for event in client.events(job_id) if event.seq is not None]
        assert again == [(event.seq, event.kind) for event in events if event.seq is not None]


def test_a_service_that_is_not_there_is_said_to_be():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    began = time.monotonic()
    with Client(address, max_retries=2) as client, pytest.raises(ServiceFailed, match=address):
        client.submit(PROBLEM)
    assert time.monotonic() - began < 5
