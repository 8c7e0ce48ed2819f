"""The openai engine against a real server: llama_cpp.server with SmolLM2."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from orchestrator.engine import (
    Capability,
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    Span,
)
from orchestrator.errors import CapabilityMissing, ContextOverflow
from orchestrator.monitors import ConfidenceFloor
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers.openai import OpenAIEngine, open_engine

from .conftest import RunningServer

pytestmark = [pytest.mark.server, pytest.mark.model]

COUNTING = Prompt((Message("user", "Write the numbers from 1 to 20, one per line, and nothing else."),))
_ids = itertools.count()


@pytest.fixture(params=["chat", "completions"])
async def engine(request: pytest.FixtureRequest, llama_cpp_server: RunningServer) -> AsyncIterator[OpenAIEngine]:
    engine = await open_engine(base_url=llama_cpp_server.base_url, context_length=512, api=request.param)
    yield engine
    await engine.aclose()


async def hear(engine: OpenAIEngine, prompt: Prompt = COUNTING, *, samples: int = 1, **fields: Any) -> list[Any]:
    max_tokens = fields.pop("max_tokens", 24)
    request = GenerateRequest(
        request_id=fields.pop("request_id", f"r{next(_ids)}"),
        prompt=prompt,
        samples=tuple(SampleSpec(seed, max_tokens) for seed in range(samples)),
        **{"sampling": GREEDY, **fields},
    )
    async with aclosing(engine.generate(request)) as events:
        return [event async for event in events]


def text_of(events: list[GenerationEvent], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def finished_of(events: list[GenerationEvent]) -> dict[int, Finished]:
    return {event.index: event for event in events if isinstance(event, Finished)}


async def test_a_model_behind_a_real_server_counts(engine: OpenAIEngine) -> None:
    assert engine.describe().name == "smollm2"
    events = await hear(engine)
    assert isinstance(events[0], Prefilled)
    assert "3" in text_of(events)
    finished = finished_of(events)[0]
    assert (finished.reason, finished.output_tokens) == (FinishReason.LENGTH, 24)
    assert finished.is_estimated  # this server reports no usage for streams
    assert (await engine.health()).is_ready


async def test_three_samples_come_though_the_server_ignores_n(engine: OpenAIEngine) -> None:
    events = await hear(engine, samples=3, sampling=Sampling(temperature=1.0))
    assert set(finished_of(events)) == {0, 1, 2}
    assert len({text_of(events, index) for index in range(3)}) > 1


async def test_a_stop_string_is_kept_with_the_token_that_completes_it(engine: OpenAIEngine) -> None:
    whole = text_of(await hear(engine))
    stop = whole[6:9]
    events = await hear(engine, stop=(stop,))
    pieces = [event.text for event in events if isinstance(event, Delta)]
    assert whole.startswith("".join(pieces))
    assert stop in "".join(pieces)
    assert stop not in "".join(pieces[:-1])
    assert (finished_of(events)[0].reason, finished_of(events)[0].detail) == (FinishReason.STOP, stop)


async def test_a_cancelled_request_ends_with_its_count_and_the_server_sees_it(
    engine: OpenAIEngine, llama_cpp_server: RunningServer
) -> None:
    hung_up = llama_cpp_server.log.read_text().count("Disconnected from client")
    events: list[GenerationEvent] = []
    request = GenerateRequest(
        request_id="live", prompt=COUNTING, samples=(SampleSpec(7, 400),), sampling=Sampling(temperature=1.5)
    )
    async with aclosing(engine.generate(request)) as stream:
        async for event in stream:
            events.append(event)
            if len(events) == 4:
                engine.cancel("live")
    finished = finished_of(events)[0]
    assert finished.reason is FinishReason.CANCELLED
    assert finished.output_tokens == sum(event.num_tokens for event in events if isinstance(event, Delta)) < 100
    async with asyncio.timeout(30):
        while llama_cpp_server.log.read_text().count("Disconnected from client") == hung_up:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_log_probabilities_come_and_feed_monitors(engine: OpenAIEngine) -> None:
    events = await hear(engine, num_logprobs=3, max_tokens=6)
    deltas = [event for event in events if isinstance(event, Delta) and event.text]
    assert all(delta.logprobs is not None and delta.logprobs[0] <= 0 for delta in deltas)
    assert all(delta.alternatives is not None and len(delta.alternatives[0].tokens) == 3 for delta in deltas)
    cut = await hear(engine, monitors=(ConfidenceFloor(floor=100.0, window=4, top_k=5),), max_tokens=50)
    assert finished_of(cut)[0].reason is FinishReason.MONITOR
    assert finished_of(cut)[0].output_tokens == 4


async def test_partial_replies_go_on_where_prompts_are_rendered_here(engine: OpenAIEngine) -> None:
    partial = Prompt(COUNTING.messages, (Span("1\n2\n3\n"),))
    if Capability.CONTINUE in engine.describe().capabilities:
        assert text_of(await hear(engine, partial, max_tokens=4)).startswith("4\n5")
    else:
        with pytest.raises(CapabilityMissing):
            await hear(engine, partial)


async def test_the_probe_sees_that_this_server_does_not_continue_chats(llama_cpp_server: RunningServer) -> None:
    for api, can_continue in (("chat", False), ("completions", True)):
        engine = await open_engine(
            base_url=llama_cpp_server.base_url, context_length=512, api=api, continue_mode="probe"
        )
        assert (Capability.CONTINUE in engine.describe().capabilities) is can_continue
        await engine.aclose()


async def test_an_overlong_prompt_is_an_overflow(engine: OpenAIEngine) -> None:
    with pytest.raises(ContextOverflow):
        await hear(engine, Prompt((Message("user", "one two three " * 300),)))


async def test_grammars_and_schemas_are_obeyed(engine: OpenAIEngine) -> None:
    if Capability.GRAMMAR not in engine.describe().capabilities:
        pytest.skip("this server takes no schemas for completions")
    events = await hear(engine, grammar='root ::= "yes" | "no"', max_tokens=8)
    assert text_of(events) in {"yes", "no"}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    value = json.loads(text_of(await hear(engine, json_schema=schema, max_tokens=60)))
    assert isinstance(value["n"], int)


@pytest.mark.slow
class TestContract(EngineContract):
    """This server never reports usage, so all counts are estimates."""

    patience_s = 60.0

    @pytest.fixture
    async def engine(self, llama_cpp_server: RunningServer) -> AsyncIterator[Engine]:
        engine = await open_engine(base_url=llama_cpp_server.base_url, context_length=512)
        yield engine
        await engine.aclose()

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine
