from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from orchestrator.config import ServiceSettings
from orchestrator.engine import Capability
from orchestrator.reply_form import ToolCall
from orchestrator.testing import ScriptedEngine, arithmetic
from orchestrator.testing.faults import Fault, FaultKind
from orchestrator.testing.scripted import ALL_CAPABILITIES
from orchestrator.testing.scripted_request import Latency
from orchestrator.testing.scripts import Reply, babble

from .openai_service import Running, running, until

pytestmark = pytest.mark.server

QUESTION: Any = [{"role": "user", "content": "What is 3 + 4 * 2 - 5?"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "description": "Looks", "parameters": {"type": "object", "properties": {}}},
}
CALLS = (ToolCall("call_1", "look", '{"at": 1}'), ToolCall("call_2", "look", '{"at": 2}'))


def script(prompt: Any, seed: int) -> str | Reply:
    """Arithmetic, and what other questions ask for."""
    asked = prompt.messages[-1].content
    if "tool" in asked:
        return Reply(text="", tool_calls=CALLS[: 1 + seed % 2] if seed else CALLS)
    if "JSON" in asked:
        return 'Here it is:\n```json\n{"city": "Bern", "people": 134000}\n```'
    if "list" in asked:
        return "one\ntwo\nthree\nfour"
    if "for ever" in asked:
        return babble()(prompt, seed)
    return arithmetic()(prompt, seed)


@pytest.fixture
async def engine() -> ScriptedEngine:
    return ScriptedEngine(script, tokens_per_delta=1)


@pytest.fixture
async def service(engine: ScriptedEngine) -> AsyncIterator[Running]:
    async with running(engine) as found:
        yield found


def asked(text: str) -> Any:
    return [{"role": "user", "content": text}]


# Chat


async def test_the_synchronous_sdk_reads_a_completion(service: Running) -> None:
    client = service.sync_client()
    reply = await asyncio.to_thread(client.chat.completions.create, model="ttc/self_consistency", messages=QUESTION)
    client.close()
    assert reply.object == "chat.completion"
    assert reply.choices[0].finish_reason == "stop"
    assert "\\boxed{6}" in (reply.choices[0].message.content or "")
    told = reply.model_extra["ttc"]  # type: ignore[index]  # ours
    assert (told["policy"], told["answer"], told["num_samples"]) == ("self_consistency", "6", 8)
    assert told["confidence_kind"] == "majority_posterior"
    assert reply.usage is not None
    assert reply.usage.total_tokens == told["usage"]["prompt_tokens"] + told["usage"]["output_tokens"]
    details = reply.usage.completion_tokens_details
    assert details is not None
    assert details.reasoning_tokens is not None
    assert 0 < details.reasoning_tokens < reply.usage.completion_tokens, "one of eight samples is shown"


async def test_every_name_that_is_listed_can_be_asked_for_or_says_what_it_lacks(service: Running) -> None:
    names = [model.id async for model in service.client.models.list()]
    assert {"ttc/auto", "ttc/single", "ttc/self_consistency", "scripted", "small"} <= set(names)
    assert "ttc/cascade" not in names, "there is no large model"
    assert (await service.client.models.retrieve("ttc/self_consistency")).owned_by == "ttc"
    reply = await service.client.chat.completions.create(model="scripted", messages=QUESTION)
    assert reply.model_extra["ttc"]["policy"] == "single"  # type: ignore[index]


async def test_a_stream_tells_role_text_reason_and_usage(service: Running) -> None:
    stream = await service.client.chat.completions.create(
        model="ttc/self_consistency", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.endswith("\\boxed{6}.")
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 300
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_sdks_own_accumulation_of_a_stream_is_the_plain_reply(service: Running) -> None:
    options: Any = {"model": "small", "messages": QUESTION, "seed": 7, "temperature": 1.0}
    async with service.client.chat.completions.stream(**options) as stream:
        final = await stream.get_final_completion()
    plain = await service.client.chat.completions.create(**options)
    assert final.choices[0].message.content == plain.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


async def test_the_first_text_of_a_single_reply_comes_before_the_tenth_token() -> None:
    engine = ScriptedEngine(script, tokens_per_delta=1, latency=Latency(token_s=0.02))
    async with running(engine) as service:
        stream = await service.client.chat.completions.create(model="small", messages=QUESTION, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                seen = (await engine.health()).output_tokens
                break
        await stream.close()
    assert 1 <= seen < 10


async def test_progress_is_told_as_reasoning_where_that_is_wanted(service: Running) -> None:
    stream = await service.client.chat.completions.create(
        model="ttc/self_consistency", messages=QUESTION, stream=True, extra_body={"ttc": {"progress": "reasoning"}}
    )
    lines = [chunk.choices[0].delta.model_extra or {} async for chunk in stream if chunk.choices]
    told = "".join(extra.get("reasoning_content", "") for extra in lines)
    assert "sample 8: answer" in told
    assert "best so far: 6" in told


async def test_a_silent_stream_says_that_it_is_alive() -> None:
    engine = ScriptedEngine(script, latency=Latency(prefill_s=0.4))
    async with running(engine, settings=ServiceSettings(heartbeat_s=0.1)) as service, httpx.AsyncClient() as http:
        body = {"model": "ttc/self_consistency", "messages": QUESTION, "stream": True}
        reply = await http.post(f"{service.base_url}/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    before, _, after = reply.text.partition("sample 1")
    assert before.count(": still working") >= 2
    assert after.endswith("data: [DONE]\n\n")


async def test_n_gives_distinct_answers_ranked_and_of_a_single_policy_independent_replies(service: Running) -> None:
    ranked = await service.client.chat.completions.create(
        model="ttc/self_consistency", messages=QUESTION, n=3, seed=1, extra_body={"ttc": {"params": {"n": 24}}}
    )
    told = [choice.model_extra["ttc"] for choice in ranked.choices]  # type: ignore[index]
    assert len({one["answer"] for one in told}) == len(told) == 3
    assert told[1]["share"] >= told[2]["share"]
    several = await service.client.chat.completions.create(model="small", messages=QUESTION, n=4)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in several.choices}) > 1
    stream = await service.client.chat.completions.create(
        model="small",
        messages=QUESTION,
        n=4,
        stream=True,
        seed=several.model_extra["ttc"]["seed"],  # type: ignore[index]
    )
    texts = ["", "", "", ""]
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in several.choices]


async def test_stop_strings_end_a_reply_and_are_not_in_it(service: Running) -> None:
    options: Any = {"model": "small", "messages": asked("a list"), "stop": ["\nthree", "never"]}
    plain = await service.client.chat.completions.create(**options)
    assert (plain.choices[0].message.content, plain.choices[0].finish_reason) == ("one\ntwo", "stop")
    stream = await service.client.chat.completions.create(**options, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "one\ntwo"


async def test_a_reply_that_is_too_long_ends_by_length(service: Running) -> None:
    options: Any = {"model": "small", "messages": asked("go on for ever"), "max_completion_tokens": 20}
    plain = await service.client.chat.completions.create(**options)
    assert plain.choices[0].finish_reason == "length"
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 20
    stream = await service.client.chat.completions.create(**options, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()) == 20


async def test_log_probabilities_belong_to_the_text(service: Running) -> None:
    options: Any = {"model": "small", "messages": asked("a list"), "logprobs": True, "top_logprobs": 3}
    plain = await service.client.chat.completions.create(**options)
    given = plain.choices[0].logprobs
    assert given is not None
    assert given.content is not None
    assert "".join(entry.token for entry in given.content) == plain.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 and entry.logprob < 0 for entry in given.content)
    stream = await service.client.chat.completions.create(**options, stream=True)
    tokens = [
        entry.token
        async for chunk in stream
        if chunk.choices[0].logprobs is not None
        for entry in chunk.choices[0].logprobs.content or ()
    ]
    assert "".join(tokens) == plain.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="single"):
        await service.client.chat.completions.create(**{**options, "model": "ttc/self_consistency"})


async def test_tools_are_asked_for_and_their_results_taken(service: Running, engine: ScriptedEngine) -> None:
    options: Any = {"model": "ttc/self_consistency", "messages": asked("use a tool"), "tools": [TOOL]}
    reply = await service.client.chat.completions.create(**options)
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("look", '{"at": 1}')
    assert engine.log[0].tools is not None
    followed = [*options["messages"], choice.message, {"role": "tool", "tool_call_id": call.id, "content": "a list"}]
    after = await service.client.chat.completions.create(**{**options, "model": "small", "messages": followed})
    assert after.choices[0].message.content == "one\ntwo\nthree\nfour"
    assert engine.log[-1].prompt.messages[1].tool_calls[0].id == call.id
    async with service.client.chat.completions.stream(**{**options, "model": "small"}) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [one.function.arguments for one in calls] == ['{"at": 1}', '{"at": 2}']


async def test_a_model_without_tools_refuses_them() -> None:
    engine = ScriptedEngine(script, capabilities=ALL_CAPABILITIES - {Capability.TOOLS})
    async with running(engine) as service:
        with pytest.raises(openai.UnprocessableEntityError, match="tool calls"):
            await service.client.chat.completions.create(model="small", messages=QUESTION, tools=[TOOL])


class City(BaseModel):
    city: str
    people: int


class Country(BaseModel):
    country: str


async def test_json_is_what_it_was_asked_to_be(service: Running) -> None:
    for model in ("small", "ttc/self_consistency"):
        parsed = await service.client.chat.completions.parse(
            model=model, messages=asked("a city in JSON"), response_format=City
        )
        assert parsed.choices[0].message.parsed == City(city="Bern", people=134000)
    whole = await service.client.chat.completions.create(
        model="small", messages=asked("a city in JSON"), response_format={"type": "json_object"}
    )
    assert json.loads(whole.choices[0].message.content or "") == {"city": "Bern", "people": 134000}
    async with service.client.chat.completions.stream(
        model="small", messages=asked("a city in JSON"), response_format=City
    ) as stream:
        assert (await stream.get_final_completion()).choices[0].message.parsed == City(city="Bern", people=134000)


async def test_json_of_another_schema_is_an_error_and_so_is_a_schema_that_is_none(service: Running) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="country"):
        await service.client.chat.completions.parse(
            model="small", messages=asked("a city in JSON"), response_format=Country
        )
    wrong: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError, match="no JSON schema"):
        await service.client.chat.completions.create(model="small", messages=QUESTION, response_format=wrong)


async def test_an_engine_with_grammars_holds_the_schema_while_it_writes() -> None:
    engine = ScriptedEngine('{"city": "Bern", "people": 1}', capabilities=[*ALL_CAPABILITIES, Capability.GRAMMAR])
    async with running(engine) as service:
        await service.client.chat.completions.parse(model="small", messages=asked("a city"), response_format=City)
    assert engine.log[0].json_schema is not None
    assert set(engine.log[0].json_schema["properties"]) == {"city", "people"}


async def test_a_reply_goes_on_from_the_assistants_last_words(service: Running) -> None:
    messages = [*asked("a list"), {"role": "assistant", "content": "one\ntwo"}]
    for stream in (False, True):
        reply: Any = await service.client.chat.completions.create(model="small", messages=messages, stream=stream)
        if stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in reply])
        else:
            text = reply.choices[0].message.content
        assert text == "\nthree\nfour"


async def test_an_open_question_is_answered_by_a_whole_reply(service: Running) -> None:
    reply = await service.client.chat.completions.create(model="ttc/self_consistency", messages=asked("a list"))
    assert reply.choices[0].message.content == "one\ntwo\nthree\nfour"
    assert reply.model_extra["ttc"]["is_whole_text"]  # type: ignore[index]
    assert len(reply.model_extra["ttc"]["tokens_by_role"]["generators"]) == 1  # type: ignore[index]


# Errors


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "ttc/auto"),
        ({"model": "ttc/nothing"}, openai.NotFoundError, "ttc/self_consistency"),
        ({"extra_body": {"top_n": 3}}, openai.BadRequestError, "top_n"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "penalties"),
        ({"logit_bias": {"1": 5}}, openai.BadRequestError, "logit_bias"),
        ({"modalities": ["text", "audio"]}, openai.BadRequestError, "text"),
        ({"functions": [{"name": "look"}]}, openai.BadRequestError, "send tools"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"extra_body": {"ttc": {"budget": "tokens=x"}}}, openai.BadRequestError, "tokens"),
        ({"extra_body": {"ttc": {"params": {"m": 1}}}}, openai.BadRequestError, "has no parameter 'm'"),
        ({"tool_choice": "required"}, openai.BadRequestError, "no tools"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}
                ]
            },
            openai.BadRequestError,
            "image_url",
        ),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, openai.BadRequestError, "says anything"),
    ],
)
async def test_what_cannot_be_granted_is_refused_with_the_reason(
    service: Running, engine: ScriptedEngine, options: dict[str, Any], kind: type[openai.APIStatusError], says: str
) -> None:
    with pytest.raises(kind) as caught:
        await service.client.chat.completions.create(
            **{"model": "ttc/self_consistency", "messages": QUESTION, **options}
        )
    assert says in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert {"message", "type", "param", "code"} <= set(caught.value.body)
    assert not engine.log


async def test_what_makes_no_difference_is_let_by(service: Running) -> None:
    reply = await service.client.chat.completions.create(
        model="small",
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}], "name": "me"},
            {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "list"}]},
        ],
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        frequency_penalty=0.0,
        presence_penalty=0,
        logit_bias={},
        n=1,
    )
    assert reply.choices[0].message.content == "one\ntwo\nthree\nfour"


async def test_a_model_that_fails_is_an_error_before_and_in_the_middle_of_a_stream() -> None:
    def faults(_call: int, _request: Any) -> Fault:
        return Fault(kind=FaultKind.FAIL, after_tokens=5, message="the model died", is_retryable=False)

    engine = ScriptedEngine(script, tokens_per_delta=1, faults=faults)
    async with running(engine) as service:
        with pytest.raises(openai.InternalServerError, match="the model died"):
            await service.client.chat.completions.create(model="small", messages=QUESTION)
        text = ""
        stream = await service.client.chat.completions.create(model="small", messages=QUESTION, stream=True)
        with pytest.raises(openai.APIError, match="the model died"):  # noqa: PT012
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        assert text, "what had come was sent"
        events = [
            event async for event in await service.client.responses.create(model="small", input="3 + 4?", stream=True)
        ]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert "the model died" in events[-1].response.error.message
        failed = await service.client.responses.retrieve(events[-1].response.id)
        assert failed.status == "failed"


async def test_too_many_at_once_are_asked_to_come_again() -> None:
    engine = ScriptedEngine(script, latency=Latency(prefill_s=1.0))
    settings = ServiceSettings(chat_concurrency=1, max_chat_waiting=0)
    async with running(engine, settings=settings) as service, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(service.client.chat.completions.create(model="small", messages=QUESTION))
        await until(lambda: engine.live_requests or engine.log)
        with pytest.raises(openai.RateLimitError) as caught:
            await service.client.chat.completions.create(model="small", messages=QUESTION)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert (await first).choices[0].finish_reason == "stop"


# Leaving


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("model", ["small", "ttc/self_consistency"])
async def test_a_client_that_leaves_ends_the_spend(model: str, *, is_stream: bool) -> None:
    engine = ScriptedEngine(script, tokens_per_delta=1, latency=Latency(token_s=0.01))
    async with running(engine) as service:
        options: Any = {"model": model, "messages": asked("go on for ever"), "stream": is_stream}
        asking = asyncio.create_task(service.client.chat.completions.create(**options))
        await until(lambda: engine.live_requests)
        if is_stream:
            stream = await asking
            await anext(aiter(stream))
            await stream.close()
        else:
            asking.cancel()
            await asyncio.wait([asking])
        await until(lambda: not engine.live_requests, timeout_s=1.0)
        spent = (await engine.health()).output_tokens
        await asyncio.sleep(0.2)
        assert (await engine.health()).output_tokens == spent
        assert len(engine.log) == 1
        assert not service.service.chats.num_running


# Responses


async def test_a_response_is_read_and_looked_up_again(service: Running) -> None:
    reply = await service.client.responses.create(
        model="ttc/self_consistency", input="What is 3 + 4 * 2 - 5?", instructions="Think.", metadata={"a": "b"}
    )
    assert (reply.status, reply.model, reply.metadata) == ("completed", "ttc/self_consistency", {"a": "b"})
    assert reply.output_text.endswith("\\boxed{6}.")
    assert reply.usage is not None
    assert reply.usage.output_tokens_details.reasoning_tokens > 0
    again = await service.client.responses.retrieve(reply.id)
    assert again.output_text == reply.output_text
    assert again.usage == reply.usage
    assert (again.instructions, again.status) == ("Think.", "completed")
    with pytest.raises(openai.NotFoundError):
        await service.client.responses.retrieve("resp_" + "0" * 20)
    with pytest.raises(openai.NotFoundError):
        await service.client.responses.retrieve("chatcmpl-1")


async def test_a_streamed_response_is_what_the_sdk_makes_of_it(service: Running) -> None:
    for model in ("small", "ttc/self_consistency"):
        kinds: list[str] = []
        async with service.client.responses.stream(model=model, input="What is 3 + 4 * 2 - 5?") as stream:
            async for event in stream:
                kinds.append(event.type)
            final = await stream.get_final_response()
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds[-1] == "response.completed"
        assert "response.output_text.delta" in kinds
        assert "\\boxed" in final.output_text
        assert (await service.client.responses.retrieve(final.id)).output_text == final.output_text


async def test_a_response_in_the_background_is_a_job(service: Running) -> None:
    reply = await service.client.responses.create(
        model="ttc/self_consistency", input="3 + 4 * 2 - 5?", background=True, extra_body={"ttc": {"seed": 1}}
    )
    assert reply.status in {"queued", "in_progress"}
    assert reply.background
    async with asyncio.timeout(10):
        while reply.status in {"queued", "in_progress"}:
            await asyncio.sleep(0.02)
            reply = await service.client.responses.retrieve(reply.id)
    assert reply.status == "completed"
    assert reply.output_text.endswith("\\boxed{6}.")
    assert reply.model_extra["ttc"]["num_samples"] == 8  # type: ignore[index]


async def test_a_response_in_the_background_is_cancelled() -> None:
    engine = ScriptedEngine(script, tokens_per_delta=1, latency=Latency(token_s=0.01))
    async with running(engine) as service:
        reply = await service.client.responses.create(model="small", input="go on for ever", background=True)
        await until(lambda: engine.live_requests)
        cancelled = await service.client.responses.cancel(reply.id)
        assert cancelled.status == "cancelled"
        await until(lambda: not engine.live_requests, timeout_s=1.0)
        assert (await service.client.responses.cancel(reply.id)).status == "cancelled"


async def test_a_conversation_goes_on_from_a_response(service: Running, engine: ScriptedEngine) -> None:
    first = await service.client.responses.create(model="small", input="a list", instructions="Be brief.")
    second = await service.client.responses.create(model="small", input="3 + 4 * 2?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    said = [(turn.role, turn.content) for turn in engine.log[-1].prompt.messages]
    assert said == [("user", "a list"), ("assistant", "one\ntwo\nthree\nfour"), ("user", "3 + 4 * 2?")]


async def test_responses_carry_tools_and_json(service: Running, engine: ScriptedEngine) -> None:
    tool: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
    reply = await service.client.responses.create(model="small", input="use a tool", tools=[tool])
    calls = [item for item in reply.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"at": 1}', '{"at": 2}']
    after = await service.client.responses.create(
        model="small",
        input=[
            {"role": "user", "content": "use a tool"},
            *[item.model_dump(exclude_none=True) for item in calls],  # type: ignore[list-item]  # as people do
            {"type": "function_call_output", "call_id": calls[0].call_id, "output": "a list"},
        ],
    )
    assert after.output_text == "one\ntwo\nthree\nfour"
    assert [call.id for call in engine.log[-1].prompt.messages[1].tool_calls] == ["call_1", "call_2"]
    async with service.client.responses.stream(model="small", input="use a tool", tools=[tool]) as stream:
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["function_call", "function_call"]
    parsed = await service.client.responses.parse(model="small", input="a city in JSON", text_format=City)
    assert parsed.output_parsed == City(city="Bern", people=134000)


async def test_a_response_that_was_cut_is_incomplete(service: Running) -> None:
    reply = await service.client.responses.create(model="small", input="go on for ever", max_output_tokens=16)
    assert reply.status == "incomplete"
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert len(reply.output_text.split()) == 16
    assert (await service.client.responses.retrieve(reply.id)).output_text == reply.output_text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"background": True, "stream": True}, "exclude each other"),
        ({"background": True, "store": False}, "stored"),
        ({"conversation": "conv_1"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'message', 'function_call'"),
        ({"input": [{"type": "message", "content": "x"}]}, "a message needs a role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
    ],
)
async def test_responses_refuse_what_they_cannot_keep(service: Running, options: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        await service.client.responses.create(**{"model": "small", "input": "hello", **options})


# A real model


@pytest.mark.model
async def test_a_tiny_real_model_streams_and_is_searched() -> None:
    async with running("lab:small") as service:
        stream = await service.client.chat.completions.create(
            model="small", messages=asked("7 + 5 - 3 = ?"), stream=True, max_completion_tokens=64
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text
        reply = await service.client.chat.completions.create(
            model="ttc/self_consistency",
            messages=asked("7 + 5 - 3 = ?"),
            max_completion_tokens=64,
            reasoning_effort="low",
        )
        assert reply.model_extra["ttc"]["usage"]["model_calls"] == 4  # type: ignore[index]
        assert reply.choices[0].message.content
