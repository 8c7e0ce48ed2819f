from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator.errors import ContextOverflow, EngineFailed
from orchestrator.workers.openai import OpenAIEngine, open_engine

from .conftest import Heard, InstantClock, listen, request_for
from .fake_server import Body, FakeServer, chunk

OpenOn = Callable[..., Awaitable[OpenAIEngine]]
Pieces = AsyncIterator[dict[str, Any] | bytes]


async def test_momentary_refusals_are_tried_again_with_growing_waits(
    open_on: OpenOn, server: FakeServer, clock: InstantClock
) -> None:
    engine = await open_on()
    server.statuses = [(503, {}, "busy"), (500, {}, {"error": {"message": "oops"}}), (429, {}, {"error": {}})]
    heard = await listen(engine, request_for())
    assert heard.text == "Hello world!"
    assert len(clock.slept) == 3
    assert 0.25 <= clock.slept[0] <= 0.75
    assert 1.0 <= clock.slept[2] <= 3.0


async def test_the_servers_own_wait_is_honoured(open_on: OpenOn, server: FakeServer, clock: InstantClock) -> None:
    engine = await open_on()
    server.statuses = [(429, {"Retry-After": "7"}, {"error": {"message": "slow down"}})]
    await listen(engine, request_for())
    assert clock.slept == [7.0]
    server.statuses = [(429, {"Retry-After": "3600"}, {"error": {"message": "slow down"}})]
    with pytest.raises(EngineFailed, match="slow down") as caught:
        await listen(engine, request_for())
    assert caught.value.is_retryable


async def test_attempts_are_counted(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on(max_retries=2)
    server.statuses = [(503, {}, "busy")] * 9
    with pytest.raises(EngineFailed, match="HTTP 503: busy") as caught:
        await listen(engine, request_for())
    assert caught.value.is_retryable
    assert len(server.requests) == 3


async def test_an_exhausted_quota_is_final(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on()
    server.statuses = [(429, {}, {"error": {"message": "pay first", "code": "insufficient_quota"}})]
    with pytest.raises(EngineFailed, match="pay first") as caught:
        await listen(engine, request_for())
    assert not caught.value.is_retryable


async def test_a_refused_key_is_final_and_never_shown(
    open_on: OpenOn, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "sk-very-secret-0123456789"
    engine = await open_on(api_key=secret)
    server.statuses = [(401, {}, {"error": {"message": f"Incorrect API key provided: {secret}"}})]
    with pytest.raises(EngineFailed, match="check api_key") as caught:
        await listen(engine, request_for())
    assert not caught.value.is_retryable
    assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    shown = [str(caught.value), repr(caught.value), str(caught.value.fields()), repr(engine), caplog.text]
    shown += [repr(vars(engine)), repr(engine.describe()), repr(await engine.health())]
    assert not any(secret in text for text in shown)


async def test_redirects_are_not_followed(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on(api_key="k")
    server.statuses = [(307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, "")]
    with pytest.raises(EngineFailed, match="redirect") as caught:
        await listen(engine, request_for())
    assert not caught.value.is_retryable


async def test_an_unknown_model_lists_those_there_are(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on()
    server.statuses = [(404, {}, {"error": {"message": "no such model"}})]
    with pytest.raises(EngineFailed, match=r"no such model.*it serves: toy") as caught:
        await listen(engine, request_for())
    assert not caught.value.is_retryable


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("This model's maximum context length is 64 tokens. However, your messages resulted in 99 tokens.", {}),
        (
            "This model's maximum context length is 64 tokens. However, you requested 115 tokens "
            "(99 in the messages, 16 in the completion).",
            {},
        ),
        ("the request exceeds the available context size", {"n_prompt_tokens": 99, "n_ctx": 64}),
        ("The input (99 tokens) is longer than the model's context length (64 tokens).", {}),
    ],
)
async def test_an_overlong_prompt_is_told_with_its_length(
    open_on: OpenOn, server: FakeServer, message: str, fields: dict[str, int]
) -> None:
    engine = await open_on()
    server.statuses = [(400, {}, {"error": {"message": message, **fields}})]
    with pytest.raises(ContextOverflow) as caught:
        await listen(engine, request_for())
    assert (caught.value.prompt_tokens, caught.value.context_length) == (99, 64)


async def test_a_reply_that_does_not_fit_is_asked_for_shorter(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on()
    message = "maximum context length is 64 tokens. However, you requested 80 tokens (60 in the messages, 20 in the"
    server.statuses = [(400, {}, {"error": {"message": message}})]
    heard = await listen(engine, request_for(max_tokens=20))
    assert server.requests[1]["max_tokens"] == 4
    assert heard.finished


async def _broken_off(body: Body) -> Pieces:
    yield chunk("Hello")
    yield b"HANG UP"


async def _unfinished(body: Body) -> Pieces:
    yield chunk("Hello")


async def _no_json(body: Body) -> Pieces:
    yield chunk("Hello")
    yield b"data: {nonsense\n\n"


async def _no_fields(body: Body) -> Pieces:
    yield chunk("Hello")
    yield b"<html>502</html>\n\n"


async def _wrong_shape(body: Body) -> Pieces:
    yield chunk("Hello")
    yield {"choices": [{"index": 0, "delta": {"content": 7}}]}


async def _huge_event(body: Body) -> Pieces:
    yield chunk("Hello")
    for _ in range(200):
        yield b"data: " + b"x" * 65536 if _ == 0 else b"x" * 65536


async def _error_object(body: Body) -> Pieces:
    yield chunk("Hello")
    yield {"error": {"message": "CUDA out of memory", "code": 500}}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (_broken_off, "connection failed"),
        (_unfinished, "closed the stream in the middle"),
        (_no_json, "not JSON"),
        (_no_fields, "no event field"),
        (_wrong_shape, "no chunk of a completion"),
        (_huge_event, "longer than"),
        (_error_object, "CUDA out of memory"),
    ],
)
async def test_a_stream_that_breaks_after_its_first_token_fails_retryably_and_keeps_what_came(
    open_on: OpenOn, server: FakeServer, reply: Callable[[Body], Pieces], reason: str
) -> None:
    server.reply = reply
    engine, heard = await open_on(), Heard()
    with pytest.raises(EngineFailed, match=reason) as caught:
        await listen(engine, request_for(), heard)
    assert caught.value.is_retryable
    assert heard.text == "Hello"
    assert len(server.requests) == 1


async def test_a_stream_that_breaks_before_its_first_token_is_asked_for_again(
    open_on: OpenOn, server: FakeServer
) -> None:
    async def reply(body: Body) -> Pieces:
        if len(server.requests) < 3:
            yield b": ping\n\n"
            yield b"HANG UP"
        yield chunk("third time lucky", finish_reason="stop")

    server.reply = reply
    assert (await listen(await open_on(), request_for())).text == "third time lucky"


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
async def test_a_reply_that_is_no_stream_is_refused(open_on: OpenOn, server: FakeServer, content_type: str) -> None:
    server.content_type = content_type
    with pytest.raises(EngineFailed, match="where an event stream was asked for"):
        await listen(await open_on(), request_for())


async def test_a_server_that_is_silent_too_long_is_given_up(open_on: OpenOn, server: FakeServer) -> None:
    import asyncio

    async def reply(body: Body) -> Pieces:
        yield chunk("Hello")
        await asyncio.sleep(5)

    server.reply = reply
    with pytest.raises(EngineFailed, match="no answer in time") as caught:
        await listen(await open_on(idle_timeout_s=0.2), request_for())
    assert caught.value.is_retryable


async def test_a_server_that_is_not_there_is_told_after_some_attempts(clock: InstantClock) -> None:
    with pytest.raises(EngineFailed, match=r"127\.0\.0\.1:9.*connection failed") as caught:
        await open_engine("toy", base_url="http://127.0.0.1:9/v1", max_retries=2, clock=clock)
    assert caught.value.is_retryable
    assert len(clock.slept) == 2
