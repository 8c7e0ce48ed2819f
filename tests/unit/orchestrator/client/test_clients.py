"""Both clients against a service in memory: what they send, what they make of the answers, and of the failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from orchestrator import Budget, JobState, Message, Sampling, StopReason
from orchestrator.client import AsyncClient, Client, JobResult
from orchestrator.errors import EngineFailed, InvalidRequest, ServiceFailed, TooManyRequests, Unauthorized, UnknownName
from orchestrator.events import Event

from .fake_service import ROWS, FakeService


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client("http://service", api_key="ttc-key", transport=service.transport, sleep=service.sleep) as client:
        yield client


@pytest.fixture
async def aclient(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(
        "http://service", api_key="ttc-key", transport=service.transport, sleep=service.asleep
    ) as client:
        yield client


def durable(events: list[Event]) -> list[tuple[int | None, str]]:
    return [(event.seq, event.kind) for event in events if event.seq is not None]


ALL_ROWS = [(seq, kind) for seq, (kind, _) in enumerate(ROWS)]


# -- solving ---------------------------------------------------------------------------------------------------


def test_a_result_reads_as_in_process(client: Client):
    result = client.solve("What is 17 * 23?")
    assert isinstance(result, JobResult)
    assert (result.text, result.confidence, result.confidence_kind) == ("391", 0.75, "majority_posterior")
    assert result.alternatives == (("381", 0.25),)
    assert result.state is JobState.SUCCEEDED
    assert result.stop_reason is StopReason.COMPLETED
    assert result.usage.total_tokens == 30
    assert result.budget == Budget(max_output_tokens=100)


def test_options_are_sent_as_the_service_reads_them(client: Client, service: FakeService):
    client.submit(
        "p",
        policy="best_of_n",
        params={"n": 4},
        budget=Budget(max_output_tokens=9),
        sampling=Sampling(temperature=1.0),
        messages=[Message("user", "p")],
        labels=None,
    )
    assert json.loads(service.requests[0].content) == {
        "problem": "p",
        "policy": "best_of_n",
        "params": {"n": 4},
        "budget": {"max_output_tokens": 9},
        "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        "messages": [{"role": "user", "content": "p"}],
    }


def test_what_cannot_be_sent_is_refused_before_it_is(client: Client, service: FakeService):
    with pytest.raises(InvalidRequest, match="no option 'polcy'"):
        client.submit("p", polcy="single")  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="verifier must be the name"):
        client.submit("p", verifier=lambda candidate: 1.0)  # type: ignore[arg-type]
    assert not service.requests


def test_the_key_goes_with_every_request(client: Client, service: FakeService):
    client.solve("p", on_event=lambda event: None)
    assert {request.headers["authorization"] for request in service.requests} == {"Bearer ttc-key"}
    assert {request.url.host for request in service.requests} == {"service"}


def test_a_failed_job_raises_what_made_it_fail(client: Client, service: FakeService):
    error = {"code": "engine_failed", "message": "gone", "model": "m", "is_retryable": False}
    service.changes = {"state": "failed", "stop_reason": "failed", "answer": None, "error": error}
    with pytest.raises(EngineFailed, match="gone") as caught:
        client.solve("p")
    assert (caught.value.model, caught.value.is_retryable) == ("m", False)
    assert not service.asked("DELETE")


def test_a_job_that_asks_is_a_result_with_a_question(client: Client, service: FakeService):
    service.changes = {"state": "waiting", "stop_reason": "waiting", "answer": None, "question": "Which one?"}
    assert client.solve("p").question == "Which one?"
    client.reply("job-0", "the first")
    assert json.loads(service.requests[-1].content) == {"text": "the first"}


def test_what_a_later_service_says_can_be_read(client: Client, service: FakeService):
    service.changes = {"stop_reason": "bored", "news": 1, "budget": {"max_joules": 5}}
    result = client.solve("p")
    assert (result.stop_reason, result.budget) == ("bored", Budget())


def test_a_service_that_does_not_hold_polls_is_not_flooded(client: Client, service: FakeService):
    client.solve("p")
    assert service.requests[1].url.params["wait"] == "20"
    assert service.sleeps == [0.5, 0.5]


def test_waiting_ends_when_its_time_is_over(client: Client, service: FakeService):
    job = client.submit("p")
    assert client.wait(job.id, timeout_s=0.0).state is JobState.QUEUED


def test_ctrl_c_cancels_the_job(client: Client, service: FakeService):
    def interrupt(request: httpx.Request) -> None:
        if request.method == "GET":
            raise KeyboardInterrupt

    service.on_request = interrupt
    with pytest.raises(KeyboardInterrupt):
        client.solve("p")
    assert service.asked("DELETE") == ["/v1/jobs/job-0"]


async def test_cancelling_the_task_cancels_the_job(aclient: AsyncClient, service: FakeService):
    is_polled = asyncio.Event()

    async def hang(seconds: float) -> None:
        is_polled.set()
        await asyncio.Event().wait()

    aclient._sleep = hang  # between two polls
    task = asyncio.create_task(aclient.solve("p"))
    await is_polled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.asked("DELETE") == ["/v1/jobs/job-0"]


async def test_the_asynchronous_client_solves_too(aclient: AsyncClient, service: FakeService):
    events: list[Event] = []
    result = await aclient.solve("p", on_event=events.append)
    assert result.text == "391"
    assert durable(events) == ALL_ROWS


# -- sending again ---------------------------------------------------------------------------------------------


def test_a_job_that_is_sent_twice_is_one_job(client: Client, service: FakeService):
    service.faults = [httpx.ReadTimeout("no answer"), httpx.Response(503)]
    job = client.submit("p")
    assert len(service.requests) == 3
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 1
    assert list(service.jobs) == [job.id]


def test_two_jobs_have_two_keys(client: Client, service: FakeService):
    assert client.submit("p").id != client.submit("p").id
    assert client.submit("p", idempotency_key="mine").id == client.submit("p", idempotency_key="mine").id


def test_a_reply_is_not_sent_twice_if_it_may_have_arrived(client: Client, service: FakeService):
    job = client.submit("p")
    service.faults = [httpx.ReadTimeout("no answer")]
    with pytest.raises(ServiceFailed):
        client.reply(job.id, "yes")
    assert service.asked("POST") == ["/v1/jobs", f"/v1/jobs/{job.id}/input"]


def test_a_busy_service_is_asked_again_when_it_says(client: Client, service: FakeService):
    service.faults = [httpx.Response(429, headers={"retry-after": "2"})] * 2
    client.submit("p")
    assert all(2.0 < seconds < 2.2 for seconds in service.sleeps)
    assert len(service.sleeps) == 2


def test_patience_ends(service: FakeService):
    body = {"error": {"code": "rate_limit_exceeded", "message": "full", "retry_after_s": 1.0}}
    service.faults = [httpx.Response(429, json=body, headers={"retry-after": "1"}) for _ in range(9)]
    with (
        Client("http://service", transport=service.transport, sleep=service.sleep, max_retries=2) as client,
        pytest.raises(TooManyRequests, match="full"),
    ):
        client.submit("p")
    assert len(service.requests) == 3


async def test_the_asynchronous_client_sends_again_too(aclient: AsyncClient, service: FakeService):
    service.faults = [httpx.ConnectError("refused"), httpx.Response(502), httpx.ReadError("gone")]
    assert (await aclient.submit("p")).id == "job-0"
    assert len(service.sleeps) == 3


def test_a_wrong_key_is_said_at_once(client: Client, service: FakeService):
    service.faults = [httpx.Response(401, json={"error": {"code": "invalid_api_key", "message": "who are you?"}})]
    with pytest.raises(Unauthorized, match="who are you"):
        client.submit("p")
    assert not service.sleeps


def test_the_key_follows_no_redirect(client: Client, service: FakeService):
    service.faults = [httpx.Response(307, headers={"location": "http://elsewhere/v1/jobs"})]
    with pytest.raises(InvalidRequest, match="elsewhere"):
        client.submit("p")
    assert [request.url.host for request in service.requests] == ["service"]


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"id": "j"}', b'{"id": "j", "state": "bored"}'])
def test_what_is_no_job_is_an_error_that_says_so(client: Client, service: FakeService, body: bytes):
    service.faults = [httpx.Response(200, content=body)]
    with pytest.raises(ServiceFailed) as caught:
        client.submit("p")
    assert not caught.value.is_retryable


def test_an_unknown_job_is_an_error_with_its_name(client: Client):
    with pytest.raises(UnknownName, match="lost") as caught:
        client.job("lost")
    assert (caught.value.kind, caught.value.name) == ("job", "lost")


def test_an_id_is_one_part_of_a_path_whatever_it_holds(client: Client, service: FakeService):
    with pytest.raises(UnknownName):
        client.job("../a?b")
    assert service.requests[0].url.raw_path == b"/v1/jobs/..%2Fa%3Fb"
    with pytest.raises(InvalidRequest):
        client.job("..")


# -- events ----------------------------------------------------------------------------------------------------


def test_events_survive_broken_connections_without_gap_or_repeat(client: Client, service: FakeService):
    job = client.submit("p")
    service.cuts = [0, 2, 1, 2]
    events = list(client.events(job.id))
    assert durable(events) == ALL_ROWS
    asked = [request.headers.get("last-event-id") for request in service.requests[1:]]
    assert asked == [None, None, "1", "1", "2"]


async def test_events_survive_broken_connections_asynchronously(aclient: AsyncClient, service: FakeService):
    job = await aclient.submit("p")
    service.cuts = [0, 2, 1, 2]
    service.faults = [httpx.Response(503)]
    assert durable([event async for event in aclient.events(job.id)]) == ALL_ROWS


def test_events_go_on_after_the_last_one_that_is_known(client: Client, service: FakeService):
    job = client.submit("p")
    assert durable(list(client.events(job.id, after=1))) == ALL_ROWS[2:]


def test_a_stream_that_never_delivers_is_given_up(client: Client, service: FakeService):
    job = client.submit("p")
    service.faults = [httpx.ReadError("gone") for _ in range(99)]
    with pytest.raises(ServiceFailed):
        list(client.events(job.id))
    assert len(service.sleeps) == 4


def test_a_stream_that_ends_with_its_job_is_over(client: Client, service: FakeService):
    job = client.submit("p")
    client.cancel(job.id)
    service.faults = [httpx.Response(200, content=b": hello\n\n")]
    assert list(client.events(job.id)) == []


def test_an_error_in_the_stream_is_raised(client: Client, service: FakeService):
    job = client.submit("p")
    body = b'event: error\ndata: {"error": {"code": "store_failed", "message": "disk full"}}\n\n'
    service.faults = [httpx.Response(200, content=body)]
    with pytest.raises(Exception, match="disk full"):
        list(client.events(job.id))


def test_a_stream_of_a_problem_begins_with_its_job_and_ends_with_its_result(client: Client, service: FakeService):
    events = list(client.stream("p"))
    assert (events[0].kind, events[0].data) == ("started", {"job_id": "job-0"})
    assert durable(events) == ALL_ROWS
    assert events[-1].data["result"].text == "391"
    assert not service.asked("DELETE")


def test_leaving_a_stream_early_cancels_the_job(client: Client, service: FakeService):
    for event in client.stream("p"):
        if event.kind == "sample":
            break
    assert service.asked("DELETE") == ["/v1/jobs/job-0"]


async def test_leaving_an_asynchronous_stream_early_cancels_the_job(aclient: AsyncClient, service: FakeService):
    async with contextlib.aclosing(aclient.stream("p")) as events:
        async for event in events:
            if event.kind == "sample":
                break
    assert service.asked("DELETE") == ["/v1/jobs/job-0"]


# -- chats -----------------------------------------------------------------------------------------------------

CHAT = {"model": "ttc/auto", "messages": []}


def test_a_chat_is_streamed_until_it_says_that_it_is_done(client: Client, service: FakeService):
    service.faults = [httpx.Response(503), httpx.Response(200, content=b': wait\n\ndata: {"a": 1}\n\ndata: [DONE]\n\n')]
    assert list(client.chat_stream(CHAT)) == [{"a": 1}]
    assert json.loads(service.requests[0].content) == {**CHAT, "stream": True}
    assert len(service.requests) == 2


def test_a_chat_that_breaks_off_is_an_error_and_is_not_paid_twice(client: Client, service: FakeService):
    service.faults = [httpx.Response(200, content=b'data: {"a": 1}\n\n')]
    stream = client.chat_stream(CHAT)
    assert next(stream) == {"a": 1}
    with pytest.raises(ServiceFailed, match="broke off"):
        next(stream)
    service.faults = [httpx.ReadTimeout("late")]
    with pytest.raises(ServiceFailed):
        client.chat(CHAT)
    assert len(service.requests) == 2


async def test_an_error_in_the_middle_of_a_chat_is_raised(aclient: AsyncClient, service: FakeService):
    body = b'data: {"a": 1}\n\ndata: {"error": {"code": "engine_failed", "message": "gone", "model": "m"}}\n\n'
    service.faults = [httpx.Response(200, content=body)]
    with pytest.raises(EngineFailed, match="gone"):
        assert [chunk async for chunk in aclient.chat_stream(CHAT)] == []
    service.faults = [httpx.Response(200, json={"choices": []})]
    assert await aclient.chat(CHAT) == {"choices": []}


# -- the rest --------------------------------------------------------------------------------------------------


def test_pages_of_jobs_are_fetched_as_they_are_needed(client: Client, service: FakeService):
    for _ in range(5):
        client.submit("p")
    jobs = client.jobs(state=JobState.QUEUED)
    assert next(jobs).id == "job-4"
    assert len(service.asked("GET")) == 1
    assert [job.id for job in jobs] == ["job-3", "job-2", "job-1", "job-0"]
    assert service.requests[-1].url.params["state"] == "queued"


async def test_pages_of_jobs_asynchronously(aclient: AsyncClient):
    for _ in range(3):
        await aclient.submit("p")
    assert [job.id async for job in aclient.jobs()] == ["job-2", "job-1", "job-0"]


def test_a_batch_gives_its_results_in_order_and_shares_its_budget(client: Client, service: FakeService):
    results = list(client.batch(["p", "q"], budget="tokens=100", policy="single"))
    assert [result.job_id for result in results] == ["b-0", "b-1"]
    assert json.loads(service.requests[0].content) == {
        "requests": [{"problem": "p", "policy": "single"}, {"problem": "q", "policy": "single"}],
        "budget": "tokens=100",
    }
    with pytest.raises(InvalidRequest, match="at least one"):
        list(client.batch([]))


def test_leaving_a_batch_early_cancels_the_rest(client: Client, service: FakeService):
    batch = client.batch(["p", "q"])
    next(batch)
    batch.close()
    assert service.asked("DELETE") == ["/v1/batches/batch"]


async def test_a_batch_asynchronously(aclient: AsyncClient, service: FakeService):
    assert [result.text async for result in aclient.batch(["p", "q"])] == ["391", "391"]
    async with contextlib.aclosing(aclient.batch(["p", "q"])) as batch:
        await anext(batch)
    assert service.asked("DELETE") == ["/v1/batches/batch"]


async def test_lists_and_usage(client: Client, aclient: AsyncClient):
    assert [policy.name for policy in client.policies()] == ["single"]
    assert [model.id for model in client.models()] == ["ttc/auto"]
    assert client.usage("job").output_tokens == 20
    assert [policy.summary for policy in await aclient.policies()] == ["One sample."]
    assert [model.id for model in await aclient.models()] == ["ttc/auto"]
    assert (await aclient.usage("job")).output_tokens == 20
