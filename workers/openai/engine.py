"""`OpenAIEngine`: any server that speaks the OpenAI API, behind the `Engine` protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.clock import Clock, SystemClock
from orchestrator.engine import (
    Capability,
    Delta,
    GenerateRequest,
    GenerationEvent,
    ModelDescription,
    Prefilled,
    Prompt,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed, InvalidRequest
from orchestrator.workers.openai.body import BodyMaker, estimated_tokens
from orchestrator.workers.openai.call import Call, cancelled
from orchestrator.workers.openai.chunks import ReportedUsage
from orchestrator.workers.openai.dialect import Dialect
from orchestrator.workers.openai.failures import PromptTooLong, UpstreamFailed
from orchestrator.workers.openai.options import OpenAIOptions
from orchestrator.workers.openai.outbox import Outbox
from orchestrator.workers.openai.sample import RemoteSample
from orchestrator.workers.openai.transport import Transport

_LOG = logging.getLogger(__name__)
_SPEED_WINDOW_S = 10.0
_LEAD_IN_TOKENS = 256
"""From this length on, a prompt is sent once and its first token awaited before the other samples are asked for, so
that a server that shares prefixes reads it once."""


@dataclass(slots=True, eq=False)
class _Live:
    """A request being served."""

    samples: list[RemoteSample]
    outbox: Outbox
    server: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    lead_has_reported: bool = False


@dataclass(slots=True)
class _Counters:
    requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    recent: deque[tuple[float, int]] = field(default_factory=deque)


class OpenAIEngine:
    """A model on a server; made by `open_engine`.

    Counts are the server's where it gives them. Prompt and output are then exact, except for samples that were
    cancelled, or cut by a stop string or monitor from here: the server may have gone on for a moment, which
    ``Finished.is_estimated`` says. The order of truncation and temperature is the server's own.

    ``Prefilled`` holds the prompt's length once, as its contract says. A server that bills the prompt with each
    request bills it as often as requests are sent: see ``fan_out`` in `OpenAIOptions`; `health` counts all of them.

    The server is not told to wait while events lie unread here: it runs ahead of the reader by what the connection
    buffers.

    Args:
        options: As checked by `OpenAIOptions`.
        dialect: The server's.
        model: As the server calls it.
        context_length: Tokens of prompt and reply.
        can_continue: Whether partial replies can be continued.
        clock: Waits between attempts.
    """

    def __init__(
        self,
        options: OpenAIOptions,
        *,
        dialect: Dialect,
        model: str,
        context_length: int,
        can_continue: bool,
        clock: Clock | None = None,
    ) -> None:
        self._options = options
        self._dialect = dialect
        self._description = ModelDescription(
            name=options.name or model,
            engine="openai",
            context_length=context_length,
            cost=options.model_cost,
            capabilities=_capabilities(options, dialect, can_continue=can_continue),
            shares_prompt=_sends_n(options, dialect) and dialect.honours_n is not False,
        )
        self._transport = Transport(
            options.model_copy(update={"name": self._description.name}), clock=clock or SystemClock()
        )
        self._maker = BodyMaker(options, dialect, self._description, model=model)
        self._model = model
        self._honours_n = dialect.honours_n
        self._turn = asyncio.Semaphore(1 if dialect.serves_one_at_a_time else options.max_connections)
        self._live: dict[str, _Live] = {}
        self._counters = _Counters()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"OpenAIEngine(model={self._model!r}, host={self._transport.host!r}, dialect={self._dialect.name!r})"

    def describe(self) -> ModelDescription:
        """The model and what can be done with it."""
        return self._description

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Samples from a prompt; see `Engine.generate`.

        The first `Prefilled` is an estimate if the server has not counted yet; a corrected one follows before the
        `Finished` of the sample whose request brought the count. When the request's deadline passes, its live samples
        end as cancelled, with the detail ``deadline``.

        Raises:
            InvalidRequest: The request id is in use, or a value cannot be sent.
            CapabilityMissing: The server lacks what is asked for.
            ContextOverflow: Prompt and one token do not fit.
            EngineFailed: The server could not be reached, refused, or broke off. Samples of other requests to it go
                on to their ends first, if another attempt at the broken one makes sense.
        """
        live = self._admit(request)
        try:
            while (event := await live.outbox.get()) is not None:
                self._count(event)
                yield event
        finally:
            del self._live[request.request_id]
            server = live.server
            assert server is not None, "admitted requests are served"
            server.cancel()
            await asyncio.wait([server])

    def cancel(self, request_id: str) -> None:
        """Closes the request's connections; its live samples end with what is known of their counts."""
        live = self._live.get(request_id)
        if live is not None and live.server is not None:
            live.is_cancelled = True
            live.server.cancel()

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Does nothing: servers manage their caches themselves."""

    async def health(self) -> EngineHealth:
        """Our own counters, and whether the server lists its models."""
        is_ready, detail = not self._is_closed, "closed" if self._is_closed else ""
        if is_ready:
            try:
                await self._transport.get_json("models")
            except UpstreamFailed as error:
                is_ready = error.status in {404, 405, 501}  # up, but without that address
                detail = self._transport.failures.shown(str(error))
            except PromptTooLong:
                is_ready = False
        counters = self._counters
        return EngineHealth(
            is_ready=is_ready,
            detail=detail,
            live_sequences=sum(not sample.is_finished for live in self._live.values() for sample in live.samples),
            requests=counters.requests,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            output_tokens=counters.output_tokens,
            tokens_per_s=self._tokens_per_s(),
        )

    async def aclose(self) -> None:
        """Closes all connections; live requests fail with `EngineFailed`. Safe to call twice."""
        self._is_closed = True
        for live in tuple(self._live.values()):
            if live.server is not None:
                live.server.cancel()
        await self._transport.aclose()

    def _admit(self, request: GenerateRequest) -> _Live:
        if self._is_closed:
            raise self._closed()
        check_capabilities(request, self._description)
        self._maker.check(request)
        if request.request_id in self._live:
            raise InvalidRequest("the request id is in use", field="request_id", value=request.request_id)
        if any(spec.max_tokens < 1 for spec in request.samples):
            raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
        samples = [RemoteSample(index, spec, request) for index, spec in enumerate(request.samples)]
        estimate = Prefilled(estimated_tokens(request.prompt))
        live = _Live(samples, Outbox(len(samples), estimate, max_unread_tokens=request.max_unread_tokens))
        self._live[request.request_id] = live
        self._counters.requests += 1
        # The reader closes the generator, which ends this task: it is never left alone.
        live.server = asyncio.create_task(self._serve(request, live))
        live.server.add_done_callback(lambda _: self._ended(live))
        return live

    def _ended(self, live: _Live) -> None:
        """Tells the reader of a request whose task was cancelled, perhaps before it ran at all."""
        if live.outbox.is_closed:
            return
        if live.is_cancelled:
            cancelled(live.samples, live.outbox)
            live.outbox.close()
        else:
            live.outbox.close(self._closed())

    async def _serve(self, request: GenerateRequest, live: _Live) -> None:
        """Runs the request's calls and closes the outbox; `_ended` does so if this is cancelled."""
        failures: list[EngineFailed] = []
        try:
            async with asyncio.timeout(request.deadline_s):
                await self._run_all(request, live, live.samples, failures)
        except TimeoutError:
            cancelled(live.samples, live.outbox, detail="deadline")
            live.outbox.close()
        except Exception as error:  # noqa: BLE001  # a bug of ours too must reach the reader, who would wait for ever
            live.outbox.close(_first(error))
        else:
            live.outbox.close(failures[0] if failures else None)

    async def _run_all(
        self, request: GenerateRequest, live: _Live, samples: Sequence[RemoteSample], failures: list[EngineFailed]
    ) -> None:
        """Asks for samples, and one by one for those that a server ignored."""
        calls = [self._call(request, live, group) for group in self._groups(request, samples)]
        if len(calls) == 1:
            await self._run(calls[0], failures)
        else:
            is_long = estimated_tokens(request.prompt) >= _LEAD_IN_TOKENS
            async with asyncio.TaskGroup() as group:
                for place, call in enumerate(calls):
                    group.create_task(self._run(call, failures))
                    if place == 0 and is_long and self._dialect.shares_prefixes:
                        await call.begun.wait()
        ignored = [sample for call in calls for sample in call.ignored]
        if ignored:
            if self._honours_n is not False:
                _LOG.info("the server does not honour n; one request per sample from now on")
            self._honours_n = False
            await self._run_all(request, live, ignored, failures)

    async def _run(self, call: Call, failures: list[EngineFailed]) -> None:
        try:
            async with self._turn:
                await call.run()
        except EngineFailed as error:
            if not error.is_retryable:
                raise
            failures.append(error)

    def _groups(self, request: GenerateRequest, samples: Sequence[RemoteSample]) -> list[list[RemoteSample]]:
        """Which samples share a request to the server."""
        wants_one = _sends_n(self._options, self._dialect)
        if len(samples) < 2 or self._maker.may_cut(request) or not wants_one or self._honours_n is False:
            return [[sample] for sample in samples]
        by_limit: dict[int, list[RemoteSample]] = {}
        for sample in samples:
            by_limit.setdefault(sample.spec.max_tokens, []).append(sample)
        return list(by_limit.values())

    def _call(self, request: GenerateRequest, live: _Live, samples: Sequence[RemoteSample]) -> Call:
        is_lead = samples[0].index == 0
        last = ReportedUsage(0, 0)

        def note(usage: ReportedUsage) -> None:
            nonlocal last
            self._counters.prompt_tokens += usage.prompt_tokens - last.prompt_tokens
            self._counters.cached_prompt_tokens += usage.cached_tokens - last.cached_tokens
            last = usage
            live.lead_has_reported |= is_lead
            if is_lead:
                live.outbox.prefilled(Prefilled(usage.prompt_tokens, usage.cached_tokens))
            elif not live.lead_has_reported:  # what others find in the cache is often what the first put there
                live.outbox.prefilled(Prefilled(usage.prompt_tokens))

        return Call(
            request,
            samples,
            transport=self._transport,
            maker=self._maker,
            outbox=live.outbox,
            on_usage=note,
            model=self._description.name,
            context_length=self._description.context_length,
            has_running_usage=self._dialect.has_running_usage,
        )

    def _count(self, event: GenerationEvent) -> None:
        if isinstance(event, Delta):
            self._counters.output_tokens += event.num_tokens
            self._counters.recent.append((time.monotonic(), event.num_tokens))
            self._forget_old()

    def _forget_old(self) -> None:
        oldest = time.monotonic() - _SPEED_WINDOW_S
        while self._counters.recent and self._counters.recent[0][0] < oldest:
            self._counters.recent.popleft()

    def _tokens_per_s(self) -> float:
        self._forget_old()
        recent = self._counters.recent
        if len(recent) < 2:
            return 0.0
        return sum(count for _, count in recent) / max(recent[-1][0] - recent[0][0], 1e-3)

    def _closed(self) -> EngineFailed:
        return EngineFailed("the engine is closed", model=self._description.name, is_retryable=False)


def _sends_n(options: OpenAIOptions, dialect: Dialect) -> bool:
    """Whether several samples are asked for in one request, so that the prompt is read once."""
    return options.fan_out == "n" or (options.fan_out == "auto" and not dialect.shares_prefixes)


def _capabilities(options: OpenAIOptions, dialect: Dialect, *, can_continue: bool) -> frozenset[Capability]:
    takes_schemas = options.api == "chat" or bool(dialect.completion_schema_field)
    gives_logprobs = dialect.gives_logprobs if options.logprobs is None else options.logprobs
    has = {
        Capability.CONTINUE: can_continue,
        Capability.GRAMMAR: options.structured_output and takes_schemas,
        Capability.LOGPROBS: gives_logprobs,
        Capability.TOOLS: options.api == "chat",
        Capability.SEEDS: options.fan_out == "requests" or (options.fan_out == "auto" and dialect.shares_prefixes),
    }
    return frozenset(capability for capability, is_there in has.items() if is_there)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
