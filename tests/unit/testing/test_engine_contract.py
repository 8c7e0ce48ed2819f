"""The contract suite catches engines that break their promises, each in one way."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from orchestrator.engine import Delta, Finished, GenerateRequest, GenerationEvent, Prefilled
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed
from orchestrator.testing import ScriptedEngine, babble
from orchestrator.testing.engine_contract import EngineContract

Events = AsyncIterator[GenerationEvent]


class Suite(EngineContract):
    """Run by hand, so it must not be collected."""

    __test__: ClassVar[bool] = False
    is_repeatable = True
    patience_s = 0.3
    stall_s = 0.02


class Twisted(ScriptedEngine):
    """A scripted engine whose events are twisted on their way out."""

    def __init__(self) -> None:
        super().__init__(babble())

    async def generate(self, request: GenerateRequest) -> Events:
        async for event in super().generate(request):
            for twisted in self.twist(event):
                yield twisted

    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [event]


class PrefillsTwice(Twisted):
    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [event, event] if isinstance(event, Prefilled) else [event]


class ForgetsToFinish(Twisted):
    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [] if isinstance(event, Finished) else [event]


class CountsOneMore(Twisted):
    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [replace(event, output_tokens=event.output_tokens + 1)] if isinstance(event, Finished) else [event]


class LosesText(Twisted):
    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [replace(event, text=event.text[1:])] if isinstance(event, Delta) else [event]


class TalksAfterTheEnd(Twisted):
    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [event, Delta(event.index, "", 0, ())] if isinstance(event, Finished) else [event]


class SwapsSamples(Twisted):
    def twist(self, event: GenerationEvent) -> list[GenerationEvent]:
        return [event] if isinstance(event, Prefilled) else [replace(event, index=event.index + 1)]


class IgnoresTheLimit(ScriptedEngine):
    def generate(self, request: GenerateRequest) -> Events:
        longer = tuple(replace(sample, max_tokens=sample.max_tokens + 1) for sample in request.samples)
        return super().generate(replace(request, samples=longer))


class IgnoresCancel(ScriptedEngine):
    def cancel(self, request_id: str) -> None:
        pass


class IgnoresStops(ScriptedEngine):
    def generate(self, request: GenerateRequest) -> Events:
        return super().generate(replace(request, stop=()))


class IgnoresMonitors(ScriptedEngine):
    def generate(self, request: GenerateRequest) -> Events:
        return super().generate(replace(request, monitors=()))


class IgnoresSeeds(ScriptedEngine):
    def generate(self, request: GenerateRequest) -> Events:
        seeds = tuple(replace(sample, seed=id(request) + self._num_calls) for sample in request.samples)
        return super().generate(replace(request, samples=seeds))


class SharesCachesBetweenTenants(ScriptedEngine):
    def generate(self, request: GenerateRequest) -> Events:
        return super().generate(replace(request, cache_salt=""))


class RunsAhead(ScriptedEngine):
    """Generates everything before it says anything."""

    async def generate(self, request: GenerateRequest) -> Events:
        events = [event async for event in super().generate(request)]
        for event in events:
            yield event


class MiscountsItsHealth(ScriptedEngine):
    async def health(self) -> EngineHealth:
        health = await super().health()
        return replace(health, output_tokens=health.output_tokens * 2)


class LeavesOrphans(ScriptedEngine):
    """Goes on when its reader has left."""

    async def generate(self, request: GenerateRequest) -> Events:
        queue: asyncio.Queue[GenerationEvent | None] = asyncio.Queue(maxsize=2)
        stream = super().generate(request)

        async def pump() -> None:
            async for event in stream:
                await asyncio.sleep(0.001)
                await queue.put(event)
            await queue.put(None)

        task = asyncio.ensure_future(pump())
        _ORPHANS.append(task)
        while (event := await queue.get()) is not None:
            yield event


class AnswersAfterItsDeath(ScriptedEngine):
    async def aclose(self) -> None:
        pass


_ORPHANS: list[asyncio.Future[None]] = []


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (PrefillsTwice, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (ForgetsToFinish, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (CountsOneMore, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (LosesText, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (TalksAfterTheEnd, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (SwapsSamples, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (IgnoresTheLimit, "test_one_sample_ends_by_itself_or_at_its_limit"),
        (IgnoresCancel, "test_cancel_ends_every_live_sample_with_exact_counts_and_then_the_stream"),
        (IgnoresStops, "test_a_stop_string_ends_the_sample_with_the_token_that_completes_it"),
        (IgnoresMonitors, "test_a_monitor_cuts_each_sample_exactly_where_it_says"),
        (IgnoresSeeds, "test_greedy_samples_and_equal_seeds_repeat_themselves"),
        (SharesCachesBetweenTenants, "test_prefixes_are_cached_within_a_tenant_only_and_released_without_harm"),
        (RunsAhead, "test_a_reader_that_stops_reading_is_not_run_away_from"),
        (MiscountsItsHealth, "test_health_counts_what_was_read_and_written"),
        (LeavesOrphans, "test_closing_the_stream_early_stops_the_work"),
        (AnswersAfterItsDeath, "test_a_closed_engine_refuses_requests_and_may_be_closed_again"),
    ],
)
async def test_a_broken_promise_is_caught_by_the_test_that_names_it(
    broken: Callable[..., ScriptedEngine], test: str
) -> None:
    engine = broken() if issubclass(broken, Twisted) else broken(babble())  # type: ignore[arg-type]  # all are classes
    for sound in (True, False):
        run = getattr(Suite(), test)
        given: dict[str, Any] = {name: ScriptedEngine(babble()) if sound else engine for name in _engines_of(run)}
        if "stop" in inspect.signature(run).parameters:
            given["stop"] = "e"
        if sound:
            await run(**given)
        else:
            with pytest.raises((AssertionError, TimeoutError, EngineFailed, pytest.fail.Exception)):
                await run(**given)
    for orphan in _ORPHANS:
        orphan.cancel()
    await asyncio.gather(*_ORPHANS, return_exceptions=True)
    _ORPHANS.clear()


def _engines_of(run: Callable[..., object]) -> list[str]:
    return [name for name in inspect.signature(run).parameters if name.endswith("engine")]
