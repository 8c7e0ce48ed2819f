"""One engine of a replica: streams that are cancelled before they come, that nobody reads, and what proves it ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from orchestrator.engine import (
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    Message,
    Prompt,
    SampleSpec,
)
from orchestrator.errors import CapabilityMissing, EngineFailed
from orchestrator.testing import Latency, ScriptedEngine, arithmetic, babble
from orchestrator.testing.scripted_abilities import ScriptedAll
from orchestrator.workers.ray.leases import TreeLeases
from orchestrator.workers.ray.routing import Release, Routing
from orchestrator.workers.ray.served import Served
from orchestrator.workers.ray.values import Due, Order


def served(engine: Engine | None = None) -> Served:
    made = engine or ScriptedEngine(babble(), latency=Latency(token_s=0.001))
    return Served("small", made, TreeLeases(60.0, clock=time.monotonic))


def order(key: str, *max_tokens: int) -> Order:
    samples = tuple(SampleSpec(seed, limit) for seed, limit in enumerate(max_tokens))
    request = GenerateRequest(request_id="r", prompt=Prompt((Message("user", "Talk."),)), samples=samples, tree_id="t")
    return Order(key, request, 0.0)


async def events(one: Served, given: Order, *, routing: Routing | None = None) -> list[GenerationEvent]:
    stream = one.stream(routing or Routing("t"), given, Due(None))
    return [event async for chunk in stream for event in chunk]


async def test_an_order_that_was_cancelled_before_it_came_is_not_begun():
    one = served()
    one.cancel("caller/1")
    last = (await events(one, order("caller/1", 5, 5)))[-1]
    assert last == Finished(1, FinishReason.CANCELLED, 0)
    assert (await one.health()).requests == 0


async def test_a_stream_is_cancelled_with_exact_counts_at_its_first_step_and_later():
    one = served()
    stream = one.stream(Routing("t"), order("caller/1", 3000), Due(None))
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    one.cancel("caller/1")
    got = [*(await first), *[event async for chunk in stream for event in chunk]]
    assert isinstance(got[-1], Finished)
    assert got[-1].reason is FinishReason.CANCELLED
    assert got[-1].output_tokens == sum(event.num_tokens for event in got if isinstance(event, Delta))
    one.check_integrity()


async def test_streams_of_a_caller_that_has_forgotten_them_end_and_others_go_on():
    one = served()
    async with (
        aclosing(one.stream(Routing("t"), order("gone/1", 3000), Due(None))) as lost,
        aclosing(one.stream(Routing("t"), order("here/1", 3000), Due(None))) as kept,
    ):
        await anext(lost)
        await anext(kept)
        one.abandon("gone", unless=frozenset({"gone/1"}))
        one.abandon("gone", older_s=60.0)
        await anext(lost)
        one.abandon("gone")
        with pytest.raises(EngineFailed, match="nobody reads"):
            [chunk async for chunk in lost]
        await anext(kept)
    assert (await one.health()).live_sequences == 0


async def test_a_release_that_rides_on_a_call_is_carried_out_before_it():
    engine = ScriptedEngine(babble())
    one = served(engine)
    keep = Prompt((Message("user", "kept"),))
    await events(one, order("caller/1", 2), routing=Routing("t", release=Release("caller", 1, (keep,))))
    assert engine.released == [("t", (keep,))]
    await events(one, order("caller/2", 2), routing=Routing("t", release=Release("caller", 1, (keep,))))
    assert len(engine.released) == 1, "it was carried out already"


async def test_a_probe_is_a_real_generation_and_is_not_counted():
    engine = ScriptedEngine(babble())
    one = served(engine)
    await one.probe()
    assert engine.log[-1].samples == (SampleSpec(0, 1),)
    assert (await engine.health()).requests == 1
    counted = await one.health()
    assert (counted.requests, counted.prompt_tokens, counted.output_tokens) == (0, 0, 0)
    await one.check(quiet_s=60)
    assert len(engine.log) == 1, "it has just generated"
    await one.check(quiet_s=0)
    assert len(engine.log) == 2


async def test_an_engine_that_cannot_generate_is_not_ready():
    engine = ScriptedEngine(babble())
    one = served(engine)
    await engine.aclose()
    with pytest.raises(EngineFailed):
        await one.check(quiet_s=0)


async def test_an_engine_that_waits_for_its_readers_is_well():
    engine = ScriptedEngine(babble())
    one = served(engine)
    async with aclosing(one.stream(Routing("t"), order("slow/1", 3000), Due(None))) as stream:
        await anext(stream)
        for _ in range(50):
            await asyncio.sleep(0)
        await one.check(quiet_s=0)
        assert len(engine.log) == 1


class NoGenerator(ScriptedAll):
    """Embeds, and refuses to generate."""

    def __init__(self) -> None:
        super().__init__(arithmetic())
        self.num_embedded = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        raise CapabilityMissing(model="embedder", capability="generating text")
        yield

    async def embed(self, texts):
        self.num_embedded += 1
        return await super().embed(texts)


async def test_what_does_not_generate_is_asked_for_what_it_is_there_for():
    engine = NoGenerator()
    await served(engine).probe()
    assert engine.num_embedded == 1


async def test_what_a_replica_says_of_an_engine():
    said = served(ScriptedAll(arithmetic())).introduce()
    assert {"Tokenizes", "ScoresTokens", "Embeds"} <= set(said.abilities)
    assert said.empty_prompt_tokens > 0
    with pytest.raises(EngineFailed, match="no method"):
        await served().call("__class__", (), {})
