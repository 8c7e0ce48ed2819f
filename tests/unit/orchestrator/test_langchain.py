"""The LangChain chat model: what it sends, what it makes of replies, and chats that stay in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from orchestrator import Budget, JobState, Orchestrator
from orchestrator.errors import BudgetTooSmall, InvalidRequest, ServiceFailed, UnknownName
from orchestrator.langchain import ChatOrchestrator, Verdict, VerifiedAnswer
from orchestrator.langchain.replies import chunk_of, result_of, sent_messages
from orchestrator.reply_form import ToolCall
from orchestrator.testing import Reply, ScriptedEngine, arithmetic

PROBLEM = "What is 3 + 4 * 2?"


class Add(BaseModel):
    """Adds two numbers."""

    a: int
    b: int


@pytest.fixture
async def ttc() -> AsyncIterator[Orchestrator]:
    def script(prompt: Any, seed: int) -> str | Reply:
        asked = prompt.messages[-1].content
        if "add" in asked:
            return Reply(text='{"a": 1, "b": 2}', tool_calls=(ToolCall("call_1", "Add", '{"a": 1, "b": 2}'),))
        if prompt.messages[-1].role == "tool":
            return f"It is {asked}."
        return arithmetic(accuracy=1.0)(prompt, seed)

    async with Orchestrator(ScriptedEngine(script, tokens_per_delta=4)) as ttc:
        yield ttc


def body_of(chat: ChatOrchestrator, /, **kwargs: Any) -> dict[str, Any]:
    return chat._body([HumanMessage("Hi")], kwargs.pop("stop", None), kwargs)


# -- what is sent ----------------------------------------------------------------------------------------------


def test_a_model_sends_what_it_was_given_and_nothing_else():
    assert body_of(ChatOrchestrator()) == {"model": "ttc/auto", "messages": [{"role": "user", "content": "Hi"}]}
    model = ChatOrchestrator(
        model="ttc/best_of_n",
        temperature=0.0,
        max_tokens=9,
        stop=["x"],
        budget=Budget(max_usd=0.5),
        params={"n": 2},
        verifier="generative",
    )
    assert body_of(model) == {
        "model": "ttc/best_of_n",
        "temperature": 0.0,
        "max_tokens": 9,
        "stop": ["x"],
        "ttc": {"params": {"n": 2}, "verifier": "generative", "budget": {"max_usd": 0.5}},
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_a_call_goes_before_the_model():
    model = ChatOrchestrator(model="ttc/single", temperature=0.0, stop=["x"], budget="tokens=10", policy="single")
    body = body_of(model, stop=["y"], temperature=1.0, model="ttc/auto", ttc={"budget": "tokens=20"}, ls_tracing="no")
    assert (body["stop"], body["temperature"], body["model"]) == (["y"], 1.0, "ttc/auto")
    assert body["ttc"] == {"policy": "single", "budget": "tokens=20"}
    assert "ls_tracing" not in body


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("any", "required"),
        (True, "required"),
        ("auto", "auto"),
        ("Add", {"type": "function", "function": {"name": "Add"}}),
        ({"type": "function", "function": {"name": "Add"}}, {"type": "function", "function": {"name": "Add"}}),
    ],
)
def test_the_choice_of_a_tool_may_be_written_in_several_ways(choice: Any, sent: Any):
    bound: Any = ChatOrchestrator().bind_tools([Add], tool_choice=choice)
    assert bound.kwargs["tool_choice"] == sent
    assert bound.kwargs["tools"][0]["function"]["name"] == "Add"


def test_a_tool_that_is_not_there_cannot_be_chosen():
    with pytest.raises(InvalidRequest, match="'Sub'; the tools are Add"):
        ChatOrchestrator().bind_tools([Add], tool_choice="Sub")
    assert "tool_choice" not in ChatOrchestrator().bind_tools([Add]).kwargs  # type: ignore[attr-defined]


def test_messages_are_sent_as_text_with_calls_beside_it():
    messages = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
        AIMessage(
            [
                {"type": "reasoning", "reasoning": "hm"},
                {"type": "text", "text": "so"},
                {"type": "tool_call", "id": "1"},
            ],
            tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}],
        ),
        ToolMessage("3", tool_call_id="1"),
    ]
    sent = sent_messages(messages)
    assert [turn["content"] for turn in sent] == ["Be brief.", "one\ntwo", "so", "3"]
    assert json.loads(sent[2]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert sent[3]["tool_call_id"] == "1"


def test_what_is_no_text_is_left_in_for_the_service_to_refuse():
    picture = {"type": "image_url", "image_url": {"url": "https://host/cat.png"}}
    (turn,) = sent_messages([HumanMessage([{"type": "text", "text": "What is this?"}, picture])])
    assert turn["content"][1]["type"] == "image_url"


def test_an_address_or_an_orchestrator_that_cannot_be_used_is_refused_at_once():
    with pytest.raises(InvalidRequest, match="base_url"):
        ChatOrchestrator(base_url="nowhere")
    with pytest.raises(ValueError, match=r"must be an orchestrator\.Orchestrator"):
        ChatOrchestrator(orchestrator="mine")


def test_the_key_is_in_nothing_that_is_shown_or_cached():
    model = ChatOrchestrator(api_key="ttc-secret", base_url="http://host")
    assert "ttc-secret" not in f"{model!r} {model} {model._get_llm_string()} {model.model_dump()}"


# -- what comes back -------------------------------------------------------------------------------------------


def test_arguments_that_are_no_json_are_handed_on_as_broken_calls():
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{"}}]
    body = {"choices": [{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]}
    message: Any = result_of(body).generations[0].message
    assert (message.content, message.tool_calls) == ("", [])
    assert message.invalid_tool_calls[0]["name"] == "add"


def test_usage_is_counted_once_for_all_choices():
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    body = {"usage": usage, "choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}
    first, second = (generation.message for generation in result_of(body).generations)
    assert first.usage_metadata == {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}  # type: ignore[attr-defined]
    assert second.usage_metadata is None  # type: ignore[attr-defined]
    with pytest.raises(ServiceFailed):
        result_of({"choices": []})


def test_a_chunk_of_usage_alone_has_no_text():
    chunk = chunk_of({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert chunk.text == ""
    assert chunk.message.usage_metadata["total_tokens"] == 3  # type: ignore[attr-defined]


# -- in process ------------------------------------------------------------------------------------------------


async def test_a_reply_is_the_text_of_the_sample_that_won_and_says_what_it_cost(ttc: Orchestrator):
    llm = ChatOrchestrator(orchestrator=ttc, model="ttc/self_consistency", params={"n": 3}, temperature=1.0)
    reply = await llm.ainvoke(PROBLEM)
    assert reply.content.endswith("\\boxed{11}.")
    assert reply.response_metadata["ttc"]["confidence"] > 0.5
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] > 2 * len(reply.content.split())
    record = await ttc.store.get(reply.response_metadata["ttc"]["job_id"])
    assert record.spec["params"] == {"n": 3, "temperature": 1.0}


async def test_a_stream_is_the_reply_in_pieces(ttc: Orchestrator):
    llm = ChatOrchestrator(orchestrator=ttc, model="ttc/single")
    pieces = [chunk async for chunk in llm.astream(PROBLEM)]
    assert len(pieces) > 5
    whole = sum(pieces[1:], pieces[0])
    assert whole.content == (await llm.ainvoke(PROBLEM)).content
    assert whole.response_metadata["finish_reason"] == "stop"
    voted = ChatOrchestrator(orchestrator=ttc, model="ttc/self_consistency", params={"n": 3})
    assert "".join([chunk.content async for chunk in voted.astream(PROBLEM)]).endswith("\\boxed{11}.")


async def test_leaving_a_stream_early_cancels_the_job(ttc: Orchestrator):
    llm = ChatOrchestrator(orchestrator=ttc, model="ttc/single")
    stream = llm.astream(PROBLEM)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    (record,) = await ttc.store.list_jobs()
    async with asyncio.timeout(5):  # LangChain leaves the inner generator to the event loop to close
        while not (record := await ttc.store.get(record.id)).state.is_terminal:
            await ttc.store.wait_for_news(record.id, after=10**9, timeout_s=0.05)
    assert record.state is JobState.CANCELLED


async def test_other_threads_may_wait_for_it_and_its_own_may_not(ttc: Orchestrator):
    llm = ChatOrchestrator(orchestrator=ttc, model="ttc/single")
    whole = await asyncio.to_thread(llm.invoke, PROBLEM)
    pieces = await asyncio.to_thread(lambda: [chunk.content for chunk in llm.stream(PROBLEM)])
    assert "".join(pieces) == whole.content
    with pytest.raises(InvalidRequest, match="ainvoke"):
        llm.invoke(PROBLEM)
    with pytest.raises(UnknownName):
        await asyncio.to_thread(lambda: list(llm.stream(PROBLEM, model="ttc/nope")))


async def test_tools_are_asked_for_and_their_results_are_read(ttc: Orchestrator):
    llm = ChatOrchestrator(orchestrator=ttc, model="ttc/single").bind_tools([Add], tool_choice="any")
    asked = await llm.ainvoke("Please add.")
    assert asked.tool_calls == [{"name": "Add", "args": {"a": 1, "b": 2}, "id": "call_1", "type": "tool_call"}]
    assert asked.response_metadata["finish_reason"] == "tool_calls"
    streamed = [chunk async for chunk in llm.astream("Please add.")]
    assert sum(streamed[1:], streamed[0]).tool_calls == asked.tool_calls  # type: ignore[attr-defined]
    replied = await llm.ainvoke([HumanMessage("Please add."), asked, ToolMessage("3", tool_call_id="call_1")])
    assert replied.content == "It is 3."


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_replies_may_be_values_of_a_schema(ttc: Orchestrator, method: Any):
    llm = ChatOrchestrator(orchestrator=ttc, model="ttc/single")
    assert await llm.with_structured_output(Add, method=method).ainvoke("Please add.") == Add(a=1, b=2)
    raw = await llm.with_structured_output(Add, method=method, include_raw=True).ainvoke("Please add.")
    assert (raw["parsed"], raw["parsing_error"]) == (Add(a=1, b=2), None)
    with pytest.raises(InvalidRequest, match="method"):
        llm.with_structured_output(Add, method="magic")  # type: ignore[arg-type]


async def test_what_only_a_service_can_do_is_refused_in_process(ttc: Orchestrator):
    with pytest.raises(InvalidRequest, match="choices"):
        await ChatOrchestrator(orchestrator=ttc, n=2).ainvoke(PROBLEM)
    picture = {"type": "image_url", "image_url": {"url": "https://host/cat.png"}}
    with pytest.raises(InvalidRequest, match="image_url"):
        await ChatOrchestrator(orchestrator=ttc).ainvoke([HumanMessage([picture])])
    with pytest.raises(BudgetTooSmall):
        await ChatOrchestrator(orchestrator=ttc, budget="tokens=1").ainvoke(PROBLEM)


# -- answers with what speaks for them -------------------------------------------------------------------------


async def test_a_verdict_has_the_answer_its_confidence_and_its_cost(ttc: Orchestrator):
    solve = VerifiedAnswer(orchestrator=ttc, policy="self_consistency", params={"n": 3})
    verdict = await solve.ainvoke(PROBLEM)
    assert isinstance(verdict, Verdict)
    assert (verdict.answer, verdict.confidence_kind, verdict.state) == ("11", "majority_posterior", JobState.SUCCEEDED)
    assert verdict.usage.output_tokens > 0
    record = await ttc.store.get(verdict.job_id)
    assert record.spec["messages"][0][0] == "system"  # how to state the answer
    assert (await asyncio.to_thread(solve.invoke, PROBLEM)).answer == "11"


async def test_a_call_and_a_chain_may_say_more(ttc: Orchestrator):
    solve = VerifiedAnswer(orchestrator=ttc, policy="self_consistency")
    verdict = await solve.ainvoke(PROBLEM, budget="tokens=300", policy="single")
    record = await ttc.store.get(verdict.job_id)
    assert (record.spec["policy"], record.spec["budget"]) == ("single", {"max_output_tokens": 300})
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "What is {sum}?")]) | solve
    verdict = await chain.ainvoke({"sum": "2 + 2"}, config={"tags": ["mine"]})
    record = await ttc.store.get(verdict.job_id)
    assert (verdict.answer, record.spec["problem"]) == ("4", "What is 2 + 2?")
    assert record.spec["messages"] == [["system", "Be brief."], ["user", "What is 2 + 2?"]]
    with pytest.raises(InvalidRequest, match="none of a person"):
        await solve.ainvoke([SystemMessage("Be brief.")])
