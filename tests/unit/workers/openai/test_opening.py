from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator.engine import Capability, Message, Prompt, Span
from orchestrator.errors import CapabilityMissing, InvalidRequest
from orchestrator.workers.openai import OpenAIEngine, OpenAIOptions, open_engine
from orchestrator.workers.openai.options import checked_options

from .conftest import listen, request_for
from .fake_server import Body, FakeServer, chunk

OpenOn = Callable[..., Awaitable[OpenAIEngine]]
Pieces = AsyncIterator[dict[str, Any] | bytes]
PARTIAL = Prompt((Message("user", "hi"),), (Span("one "),))


def model_that_counts(*, continues: bool = True, strips: bool = False) -> Callable[[Body], Pieces]:
    async def reply(body: Body) -> Pieces:
        written = body["messages"][-1]["content"]
        if strips:
            written = written.rstrip()
        yield chunk("1") if not continues else chunk("7" if written.endswith("\n") else "\n7", finish_reason="length")
        if not continues:
            yield chunk("\n2", finish_reason="length")

    return reply


@pytest.mark.parametrize(
    ("habits", "can_continue"), [({}, True), ({"continues": False}, False), ({"strips": True}, False)]
)
async def test_continuing_is_offered_if_the_server_was_seen_to_do_it(
    open_on: OpenOn, server: FakeServer, habits: dict[str, bool], can_continue: bool
) -> None:
    server.owned_by, server.reply = "vllm", model_that_counts(**habits)
    engine = await open_on()
    assert (Capability.CONTINUE in engine.describe().capabilities) is can_continue
    assert server.requests[0]["continue_final_message"] is True
    assert server.requests[0]["add_generation_prompt"] is False
    if can_continue:
        assert (await listen(engine, request_for(prompt=PARTIAL))).finished
        assert server.requests[-1]["messages"][-1] == {"role": "assistant", "content": "one "}
    else:
        with pytest.raises(CapabilityMissing, match="continuing"):
            await listen(engine, request_for(prompt=PARTIAL))


async def test_a_server_that_refuses_to_continue_is_believed(open_on: OpenOn, server: FakeServer) -> None:
    server.owned_by = "vllm"

    async def reply(body: Body) -> Pieces:
        yield {"error": {"message": "the last message must be from the user", "code": 400}}

    server.reply = reply
    assert Capability.CONTINUE not in (await open_on()).describe().capabilities


async def test_unknown_servers_are_not_probed_unless_asked_to(open_on: OpenOn, server: FakeServer) -> None:
    assert Capability.CONTINUE not in (await open_on()).describe().capabilities
    assert server.requests == []
    server.reply = model_that_counts()
    assert Capability.CONTINUE in (await open_on(continue_mode="probe")).describe().capabilities


async def test_name_context_and_prices_are_described(server: FakeServer) -> None:
    engine = await open_engine(base_url=server.base_url, name="small", output_usd=2.0)
    description = engine.describe()
    assert (description.name, description.engine, description.context_length) == ("small", "openai", 4096)
    assert description.cost.prices.output_usd == 2.0
    assert Capability.STRICT_COUNTS not in description.capabilities
    await engine.aclose()


async def test_a_context_length_that_nobody_states_must_be_given(open_on: OpenOn, server: FakeServer) -> None:
    server.max_model_len = None
    with pytest.raises(InvalidRequest, match="set context_length"):
        await open_on()
    assert (await open_on(context_length=100)).describe().context_length == 100


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://user:pw@x/v1"}, "base_url"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"fan_out": "sometimes"}, "fan_out"),
        ({"temprature": 1}, "temprature"),
        ({"max_connections": 0}, "max_connections"),
    ],
)
def test_a_wrong_option_is_named_and_secrets_are_not_shown(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked_options(options)
    assert caught.value.field == field
    assert "pw@" not in str(caught.value)
    assert "a\nb" not in repr(caught.value.fields())


def test_a_stored_key_goes_only_where_its_owner_sent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "stored")
    monkeypatch.setenv("MINE", "mine")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert OpenAIOptions().key == "stored"
    assert OpenAIOptions(base_url="https://api.openai.com/v1").key == "stored"
    assert OpenAIOptions(base_url="http://elsewhere/v1").key == ""
    assert OpenAIOptions(base_url="http://elsewhere/v1", api_key_env="MINE").key == "mine"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://company/v1/")
    assert (OpenAIOptions().url, OpenAIOptions().key) == ("http://company/v1", "stored")
