from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Capability,
    Delta,
    Embeds,
    Engine,
    FinishReason,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    Span,
)
from orchestrator.errors import CapabilityMissing, EngineFailed, InvalidRequest
from orchestrator.monitors import ConfidenceFloor, Repetition
from orchestrator.reply_form import ToolCall, ToolOffer
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.workers.openai import OpenAIEmbeddingEngine, OpenAIEngine

from .conftest import Heard, listen, request_for, until
from .fake_server import Body, FakeServer, chunk, usage

OpenOn = Callable[..., Awaitable[OpenAIEngine]]


async def test_a_stream_becomes_events_with_the_servers_counts(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on()
    heard = await listen(engine, request_for())
    assert isinstance(engine, Engine)
    assert isinstance(heard.events[0], Prefilled)
    assert heard.text == "Hello world!"
    assert heard.prefilled[-1] == Prefilled(11, 5)
    finished = heard.finished[0]
    assert (finished.reason, finished.output_tokens, finished.is_estimated) == (FinishReason.END, 5, False)
    assert heard.events[-1] is finished
    assert server.requests[0]["stream_options"] == {"include_usage": True}
    health = await engine.health()
    assert (health.is_ready, health.prompt_tokens, health.output_tokens) == (True, 11, 4)


async def test_the_prompt_is_counted_right_before_its_first_sample_is_finished(open_on: OpenOn) -> None:
    heard = await listen(await open_on(), request_for())
    places = [type(event).__name__ for event in heard.events]
    assert places[0] == "Prefilled"
    assert places.index("Finished") > max(place for place, name in enumerate(places) if name == "Prefilled")


async def test_many_samples_share_a_request_and_its_count_exactly(open_on: OpenOn, server: FakeServer) -> None:
    heard = await listen(await open_on(), request_for(samples=3))
    assert [body.get("n") for body in server.requests] == [3]
    assert set(heard.texts.values()) == {"Hello world!"}
    assert [heard.finished[index].output_tokens for index in range(3)] == [5, 5, 5]
    assert not any(finished.is_estimated for finished in heard.finished.values())


async def test_a_server_that_ignores_n_is_asked_again_and_remembered(open_on: OpenOn, server: FakeServer) -> None:
    server.honours_n = False
    engine = await open_on()
    heard = await listen(engine, request_for(samples=3))
    assert heard.texts == dict.fromkeys(range(3), "Hello world!")
    assert [body.get("n", 1) for body in server.requests] == [3, 1, 1]
    await listen(engine, request_for(samples=2))
    assert [body.get("n", 1) for body in server.requests[3:]] == [1, 1]


async def test_a_server_that_minds_n_is_asked_one_by_one(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on()
    server.statuses = [(400, {}, {"error": {"message": "Only one completion choice is allowed"}})]
    heard = await listen(engine, request_for(samples=2))
    assert len(heard.finished) == 2


async def test_requests_carry_each_samples_own_seed(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on(fan_out="requests")
    assert Capability.SEEDS in engine.describe().capabilities
    await listen(engine, request_for(samples=3))
    assert sorted(body["seed"] for body in server.requests) == [100, 101, 102]
    assert all("n" not in body for body in server.requests)


async def test_samples_of_different_lengths_get_requests_of_their_own(open_on: OpenOn, server: FakeServer) -> None:
    request = GenerateRequest(
        request_id="r",
        prompt=Prompt((Message("user", "x"),)),
        samples=(SampleSpec(1, 2), SampleSpec(2, 9), SampleSpec(3, 2)),
    )
    heard = await listen(await open_on(), request)
    assert sorted((body["max_tokens"], body.get("n", 1)) for body in server.requests) == [(2, 2), (9, 1)]
    assert [heard.finished[index].reason for index in range(3)] == ["length", "end", "length"]
    assert heard.finished[0].output_tokens == 2


async def test_greedy_requests_carry_no_seed_and_sampling_is_sent_as_asked(open_on: OpenOn, server: FakeServer) -> None:
    server.owned_by = "vllm"
    engine = await open_on(continue_mode="off")
    await listen(engine, request_for(sampling=GREEDY))
    await listen(engine, request_for(sampling=Sampling(temperature=0.5, top_p=0.9, min_p=0.1), cache_salt="tenant"))
    greedy, sampled = server.requests
    assert "seed" not in greedy
    assert (sampled["temperature"], sampled["top_p"], sampled["top_k"], sampled["min_p"]) == (0.5, 0.9, 0, 0.1)
    assert (sampled["repetition_penalty"], sampled["cache_salt"]) == (1.0, "tenant")


async def test_truncation_that_a_server_does_not_know_is_refused(open_on: OpenOn) -> None:
    with pytest.raises(CapabilityMissing, match="top_k"):
        await listen(await open_on(), request_for(sampling=Sampling(top_k=5)))


async def test_a_stop_string_is_kept_named_and_closes_the_connection(open_on: OpenOn, server: FakeServer) -> None:
    server.words = ["a", " b", "\n", "\nc", " d"] + [" e"] * 500
    server.chunk_s = 0.01
    heard = await listen(await open_on(), request_for(stop=("\n\n",), max_tokens=600))
    assert heard.text == "a b\n\nc"
    finished = heard.finished[0]
    assert (finished.reason, finished.detail) == (FinishReason.STOP, "\n\n")
    assert (finished.output_tokens, finished.is_estimated) == (4, True)
    await asyncio.wait_for(server.hung_up.wait(), 5)
    assert server.sent_chunks < 100
    assert "stop" not in server.requests[0]


async def test_a_server_that_keeps_stop_strings_ends_the_sample_itself(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        for index, word in enumerate(["a", " b", "\n\n"], start=1):
            yield chunk(word, stop_reason=None) | {"usage": {"prompt_tokens": 3, "completion_tokens": index}}
        yield chunk(None, finish_reason="stop", stop_reason="\n\n") | {
            "usage": {"prompt_tokens": 3, "completion_tokens": 3}
        }
        yield usage(3, 3)

    server.owned_by, server.reply = "vllm", reply
    heard = await listen(await open_on(continue_mode="off"), request_for(stop=("\n\n",)))
    assert server.requests[0]["stop"] == ["\n\n"]
    assert server.requests[0]["include_stop_str_in_output"] is True
    finished = heard.finished[0]
    assert (finished.reason, finished.detail, finished.output_tokens) == (FinishReason.STOP, "\n\n", 3)
    assert server.disconnects == 0


async def test_a_monitor_cuts_one_sample_and_leaves_the_other(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        words = ["again "] * 100 if body["seed"] == 100 else ["fine"]
        for word in words:
            yield chunk(word)
            await asyncio.sleep(0.002)
        yield chunk(None, finish_reason="stop")

    server.reply = reply
    monitor = Repetition(max_period=4, min_tokens=8, min_repeats=4)
    heard = await listen(await open_on(), request_for(samples=2, monitors=(monitor,), max_tokens=200))
    assert (heard.finished[0].reason, heard.finished[0].detail) == (FinishReason.MONITOR, "repetition")
    assert heard.finished[0].output_tokens == 8
    assert heard.texts[0] == "again " * 8
    assert heard.finished[1].reason is FinishReason.END


def logprob_chunk(text: str, *entries: tuple[str, float, list[float]]) -> dict[str, Any]:
    content = [
        {
            "token": token,
            "logprob": value,
            "top_logprobs": [{"token": f"t{i}", "logprob": top} for i, top in enumerate(tops)],
        }
        for token, value, tops in entries
    ]
    return chunk(text, logprobs={"content": content})


async def test_log_probabilities_are_delivered_and_feed_monitors(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        yield logprob_chunk("ab", ("a", -0.1, [-0.1, -3.0]), ("b", -0.2, [-0.2, -2.0]))
        yield logprob_chunk("é", ("\\xc3", -1.0, [-1.0, -1.1]), ("\\xa9", -1.5, [-1.5, -1.6]))
        yield logprob_chunk("c", ("c", -0.1, [-0.1, -9.0]))
        yield chunk(None, finish_reason="stop")
        yield usage(3, 6)

    server.reply = reply
    engine = await open_on()
    heard = await listen(engine, request_for(num_logprobs=2))
    assert [delta.num_tokens for delta in heard.deltas] == [2, 2, 1]
    assert [delta.logprobs for delta in heard.deltas] == [(-0.1, -0.2), (-1.0, -1.5), (-0.1,)]
    alternatives = heard.deltas[0].alternatives
    assert alternatives is not None
    assert alternatives[1].logprobs == (-0.2, -2.0)
    assert heard.text == "abéc"
    assert server.requests[0]["top_logprobs"] == 2

    floor = ConfidenceFloor(floor=1.2, window=2, top_k=2)
    cut = await listen(engine, request_for(monitors=(floor,)))
    assert cut.finished[0].reason is FinishReason.MONITOR
    assert cut.text == "ab"  # the third token's bytes are no character yet
    assert cut.deltas[0].logprobs is None


async def test_more_log_probabilities_than_servers_give_are_refused(open_on: OpenOn) -> None:
    with pytest.raises(InvalidRequest, match="at most 20"):
        await listen(await open_on(), request_for(num_logprobs=21))
    with pytest.raises(CapabilityMissing, match="log probabilities"):
        await listen(await open_on(logprobs=False), request_for(num_logprobs=1))


async def test_running_usage_counts_tokens_that_come_bundled(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        yield chunk("") | {"usage": {"prompt_tokens": 9, "completion_tokens": 0}}
        yield chunk("three tokens here") | {"usage": {"prompt_tokens": 9, "completion_tokens": 3}}
        yield chunk(" and forty", finish_reason="length") | {"usage": {"prompt_tokens": 9, "completion_tokens": 43}}
        yield usage(9, 43)

    server.owned_by, server.reply = "vllm", reply
    heard = await listen(await open_on(continue_mode="off"), request_for(max_tokens=43))
    assert heard.prefilled == [Prefilled(9)]
    assert sum(delta.num_tokens for delta in heard.deltas) == 43
    assert max(delta.num_tokens for delta in heard.deltas) <= MAX_UNREAD_TOKENS // 2
    assert heard.finished[0].output_tokens == 43
    assert not heard.finished[0].is_estimated


async def test_without_usage_chunks_are_counted_and_flagged(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        yield chunk("a")
        yield chunk("b", finish_reason="stop")

    server.reply = reply
    heard = await listen(await open_on(), request_for())
    assert (heard.finished[0].output_tokens, heard.finished[0].is_estimated) == (2, True)


async def test_a_server_that_counts_less_than_was_seen_is_not_believed(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        for word in "abcd":
            yield chunk(word)
        yield chunk(None, finish_reason="stop")
        yield usage(1, 2)

    server.reply = reply
    heard = await listen(await open_on(), request_for())
    assert (heard.finished[0].output_tokens, heard.finished[0].is_estimated) == (4, True)


async def test_cancelling_closes_the_connection_and_ends_every_sample(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.01
    engine = await open_on(fan_out="requests")
    request, heard = request_for(samples=2, max_tokens=2000), Heard()
    async with asyncio.TaskGroup() as group:
        group.create_task(listen(engine, request, heard))
        await until(lambda: len(heard.deltas) >= 6)
        engine.cancel("unknown")
        engine.cancel(request.request_id)
    assert {finished.reason for finished in heard.finished.values()} == {FinishReason.CANCELLED}
    for index, finished in heard.finished.items():
        assert finished.is_estimated
        assert finished.output_tokens == sum(delta.num_tokens for delta in heard.deltas if delta.index == index)
    await until(lambda: server.live == 0)
    assert server.disconnects == 2
    assert server.sent_chunks < 200


async def test_a_request_cancelled_before_it_was_sent_ends_as_well(open_on: OpenOn, server: FakeServer) -> None:
    engine, request = await open_on(), request_for(samples=2)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(listen(engine, request))
        await asyncio.sleep(0)
        engine.cancel(request.request_id)
    assert [finished.output_tokens for finished in task.result().finished.values()] == [0, 0]
    assert isinstance(task.result().events[0], Prefilled)
    assert server.requests == []


async def test_half_a_character_in_json_does_no_harm(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        yield b'data: {"choices": [{"index": 0, "delta": {"content": "a\\ud83d"}, "finish_reason": "stop"}]}\n\n'

    server.reply = reply
    text = (await listen(await open_on(), request_for())).text
    assert text.startswith("a\ufffd")
    text.encode()


async def test_a_connection_is_used_again_also_where_the_reply_ends_after_its_last_event(
    open_on: OpenOn, server: FakeServer
) -> None:
    engine = await open_on()
    for server.end_s in (0.0, 0.002, 0.002):
        await listen(engine, request_for())
    assert len(set(server.peers)) == 1


async def test_a_server_that_does_not_end_its_reply_is_not_waited_for(open_on: OpenOn, server: FakeServer) -> None:
    server.end_s = 60.0
    async with asyncio.timeout(5):
        heard = await listen(await open_on(), request_for())
    assert (heard.text, heard.finished[0].is_estimated) == ("Hello world!", False)
    await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_closing_the_iterator_closes_the_connection(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.01
    engine = await open_on()
    async with aclosing(engine.generate(request_for(max_tokens=2000))) as events:
        async for event in events:
            if isinstance(event, Delta):
                break
    await asyncio.wait_for(server.hung_up.wait(), 5)
    assert (await engine.health()).live_sequences == 0


async def test_a_cancelled_reader_closes_the_connection(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.01
    engine, heard = await open_on(), Heard()
    task = asyncio.ensure_future(listen(engine, request_for(max_tokens=2000), heard))
    await until(lambda: bool(heard.deltas))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_the_deadline_ends_what_lives_and_keeps_the_counts(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.02
    heard = await listen(await open_on(), request_for(max_tokens=2000, deadline_s=0.3))
    finished = heard.finished[0]
    assert (finished.reason, finished.detail) == (FinishReason.CANCELLED, "deadline")
    assert 0 < finished.output_tokens == sum(delta.num_tokens for delta in heard.deltas) < 30
    assert isinstance(heard.events[0], Prefilled)


async def test_a_slow_reader_stops_the_reading_of_the_socket(open_on: OpenOn, server: FakeServer) -> None:
    server.words = [" x" * 100_000] * 100
    engine = await open_on()
    async with aclosing(engine.generate(request_for(max_tokens=2000))) as events:
        await anext(events)
        await asyncio.sleep(0.5)
        assert server.sent_chunks < 95
        heard = [event async for event in events]
    assert sum(event.num_tokens for event in heard if isinstance(event, Delta)) == 100


async def test_long_prompts_are_read_once_before_the_others_are_asked_for(open_on: OpenOn, server: FakeServer) -> None:
    order: list[str] = []

    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        order.append("asked")
        await asyncio.sleep(0.2)
        order.append("answered")
        yield chunk("x", finish_reason="stop")

    server.owned_by, server.reply = "vllm", reply
    engine = await open_on(continue_mode="off")
    await listen(engine, request_for("long " * 400, samples=3))
    assert order[:2] == ["asked", "answered"]
    order.clear()
    await listen(engine, request_for("short", samples=3))
    assert order[:3] == ["asked"] * 3


async def test_a_server_that_cuts_short_what_it_serves_gets_one_request_at_a_time(
    open_on: OpenOn, server: FakeServer
) -> None:
    server.owned_by, server.chunk_s = "me", 0.01
    engine = await open_on()
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(listen(engine, request_for(samples=2)))
    assert (len(server.requests), server.peak_live) == (4, 1)


async def test_samples_of_unbroken_requests_are_delivered_before_a_failure(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        yield chunk("a")
        if body["seed"] == 100:
            yield b"HANG UP"
        await asyncio.sleep(0.1)
        yield chunk("b", finish_reason="stop")

    server.reply = reply
    heard = Heard()
    with pytest.raises(EngineFailed) as caught:
        await listen(await open_on(fan_out="requests"), request_for(samples=3), heard)
    assert caught.value.is_retryable
    assert set(heard.finished) == {1, 2}


async def test_schemas_and_grammars_go_where_the_server_wants_them(open_on: OpenOn, server: FakeServer) -> None:
    schema = {"type": "object"}
    await listen(await open_on(), request_for(json_schema=schema))
    server.owned_by = "vllm"
    await listen(await open_on(continue_mode="off"), request_for(grammar='root ::= "x"'))
    server.owned_by = "me"
    llama = await open_on(continue_mode="off")
    await listen(llama, request_for(json_schema=schema))
    await listen(llama, request_for(grammar='root ::= "x"'))
    formats = [body.get("response_format") for body in server.requests]
    assert formats[0] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert server.requests[1]["structured_outputs"] == {"grammar": 'root ::= "x"'}
    assert formats[2] == {"type": "json_object", "schema": schema}
    assert server.requests[3]["grammar"] == 'root ::= "x"'
    server.owned_by = "someone"
    with pytest.raises(CapabilityMissing, match="GBNF"):
        await listen(await open_on(), request_for(grammar="x"))


async def test_the_completions_api_gets_a_rendered_prompt_and_can_continue(open_on: OpenOn, server: FakeServer) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        logprobs = {"tokens": [" you"], "token_logprobs": [-0.5], "top_logprobs": [{" me": -1.0, " you": -0.5}]}
        yield {"choices": [{"index": 0, "text": " you", "logprobs": logprobs, "finish_reason": "length"}]}
        yield usage(8, 1)

    server.reply = reply
    engine = await open_on(api="completions")
    assert Capability.CONTINUE in engine.describe().capabilities
    prompt = Prompt((Message("user", "hi"),), (Span("How are"),))
    heard = await listen(engine, request_for(prompt=prompt, num_logprobs=2))
    assert server.requests[0]["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHow are"
    assert server.requests[0]["logprobs"] == 2
    assert heard.text == " you"
    alternatives = heard.deltas[0].alternatives
    assert alternatives is not None
    assert alternatives[0].tokens == (" you", " me")


async def test_embeddings_come_in_order_as_unit_vectors(open_on: OpenOn, server: FakeServer) -> None:
    engine = await open_on(embeddings=True)
    assert isinstance(engine, OpenAIEmbeddingEngine)
    assert isinstance(engine, Embeds)
    assert not isinstance(await open_on(), Embeds)
    embeddings = await engine.embed(["a", "b"])
    assert embeddings.vectors.shape == (2, 3)
    assert embeddings.vectors[0].tolist() == pytest.approx([0.6, 0.8, 0.0])
    assert embeddings.prompt_tokens == 14


async def test_a_closed_engine_refuses_and_ends_what_lives(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.01
    engine, heard = await open_on(), Heard()
    task = asyncio.ensure_future(listen(engine, request_for(max_tokens=2000), heard))
    await until(lambda: bool(heard.deltas))
    await engine.aclose()
    await engine.aclose()
    for call in (task, listen(engine, request_for())):
        with pytest.raises(EngineFailed, match="closed"):
            await call
    assert not (await engine.health()).is_ready


async def test_one_request_id_serves_one_request_at_a_time(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 50, 0.01
    engine, request = await open_on(), request_for(max_tokens=99)
    async with aclosing(engine.generate(request)) as events:
        await anext(events)
        with pytest.raises(InvalidRequest, match="in use"):
            await listen(engine, request)
    server.chunk_s = 0
    assert (await listen(engine, request)).finished


async def test_tools_are_offered_and_calls_come_back_whole(open_on: OpenOn, server: FakeServer) -> None:
    def part(**call: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}

    async def reply(_: Body) -> AsyncIterator[dict[str, Any]]:
        yield part(index=0, id="call_a", type="function", function={"name": "look", "arguments": ""})
        yield part(index=0, function={"arguments": '{"at"'})
        yield part(index=0, function={"arguments": ": 1}"})
        yield part(index=1, id="call_b", function={"name": "listen", "arguments": "{}"})
        yield chunk(None, finish_reason="stop")
        yield usage(11, 9)

    server.reply = reply
    offer = ToolOffer(functions=({"name": "look"},), choice="look", may_call_several=False)
    turns = (
        Message("user", "hello"),
        Message("assistant", "", (ToolCall("c1", "look", "{}"),)),
        Message("tool", "nothing", tool_call_id="c1"),
    )
    heard = await listen(await open_on(), replace(request_for(prompt=Prompt(turns)), tools=offer))
    finished = heard.finished[0]
    assert (finished.reason, finished.output_tokens) == (FinishReason.TOOL_CALL, 9)
    assert finished.tool_calls == (ToolCall("call_a", "look", '{"at": 1}'), ToolCall("call_b", "listen", "{}"))
    body = server.requests[0]
    assert body["tools"] == [{"type": "function", "function": {"name": "look"}}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["parallel_tool_calls"] is False
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "nothing", "tool_call_id": "c1"},
    ]


async def test_the_completions_api_has_no_tools(open_on: OpenOn) -> None:
    engine = await open_on(api="completions")
    assert Capability.TOOLS not in engine.describe().capabilities


async def test_whole_replies_are_delivered_like_streams_with_the_servers_count(
    open_on: OpenOn, server: FakeServer
) -> None:
    async def reply(body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        yield chunk("short", 0)
        yield chunk("a reply that is five times as long", 1)
        yield chunk(None, 0, finish_reason="stop")
        yield chunk(None, 1, finish_reason="length")
        yield usage(11, 42, cached=5)

    server.reply = reply
    heard = await listen(await open_on(stream=False), request_for(samples=2, max_tokens=99))
    assert "stream" not in server.requests[0]
    assert "stream_options" not in server.requests[0]
    assert heard.texts == {0: "short", 1: "a reply that is five times as long"}
    assert heard.prefilled[-1] == Prefilled(11, 5)
    assert [heard.finished[index].reason for index in range(2)] == [FinishReason.END, FinishReason.LENGTH]
    short, long = (heard.finished[index].output_tokens for index in range(2))
    assert short + long == 42
    assert 4 * short < long < 8 * short
    assert not any(finished.is_estimated for finished in heard.finished.values())


async def test_whole_replies_of_servers_that_ignore_n_are_asked_for_one_by_one(
    open_on: OpenOn, server: FakeServer
) -> None:
    server.honours_n = False
    heard = await listen(await open_on(stream=False), request_for(samples=3))
    assert heard.texts == dict.fromkeys(range(3), "Hello world!")
    assert [finished.output_tokens for finished in heard.finished.values()] == [5, 5, 5]


async def test_a_whole_reply_that_is_cancelled_is_charged_all_it_may_hold(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.01
    engine, request = await open_on(stream=False), request_for(samples=2, max_tokens=2000)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(listen(engine, request))
        await until(lambda: server.live == 1)
        engine.cancel(request.request_id)
    told = [(end.reason, end.output_tokens, end.is_estimated) for end in task.result().finished.values()]
    assert told == [(FinishReason.CANCELLED, 2000, True)] * 2
    await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_a_whole_reply_that_is_late_is_charged_all_it_may_hold(open_on: OpenOn, server: FakeServer) -> None:
    server.words, server.chunk_s = [" x"] * 1000, 0.01
    heard = await listen(await open_on(stream=False), request_for(max_tokens=2000, deadline_s=0.2))
    assert (heard.finished[0].detail, heard.finished[0].output_tokens) == ("deadline", 2000)


async def test_whole_replies_that_fail_are_tried_again_and_what_was_refused_costs_nothing(
    open_on: OpenOn, server: FakeServer
) -> None:
    engine = await open_on(stream=False)
    server.statuses = [(503, {}, "busy")]
    assert (await listen(engine, request_for())).text == "Hello world!"
    server.statuses = [(200, {}, {"error": {"message": "out of memory", "code": 500}})] * 9
    with pytest.raises(EngineFailed, match="out of memory"):
        await listen(engine, request_for())
    server.statuses = [(200, {}, "no JSON")] * 9
    with pytest.raises(EngineFailed, match="not JSON"):
        await listen(engine, request_for())


async def test_samples_that_are_watched_from_here_are_streamed_in_any_case(open_on: OpenOn, server: FakeServer) -> None:
    heard = await listen(await open_on(stream=False), request_for(stop=("wor",)))
    assert server.requests[0]["stream"] is True
    assert heard.text == "Hello wor"
