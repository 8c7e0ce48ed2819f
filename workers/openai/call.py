"""One request to the server, from its first attempt to the last event of its samples."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.engine import GenerateRequest
from orchestrator.errors import ContextOverflow
from orchestrator.workers.openai.body import BodyMaker, estimated_tokens
from orchestrator.workers.openai.chunks import Chunk, ReportedUsage, ServerReportedError, parse_chunks, parse_whole
from orchestrator.workers.openai.failures import PromptTooLong, UpstreamFailed
from orchestrator.workers.openai.outbox import Outbox
from orchestrator.workers.openai.sample import RemoteSample, shares
from orchestrator.workers.openai.sse import MalformedStream
from orchestrator.workers.openai.transport import Transport

_MINDS_N = re.compile(r"\bn\b|choices?\b|one completion", re.IGNORECASE)


class Call:
    """Some samples of a request, asked for in one request to the server.

    Args:
        request: What is wanted.
        samples: Which of its samples.
        transport: The server.
        maker: Its language.
        outbox: Where events go.
        on_usage: Told what the server counted.
        context_length: Of the model, for errors.
        has_running_usage: Whether the usage in a chunk is its choice's own.

    Attributes:
        begun: Set once the server has answered, or never will.
        ignored: Samples that the server left out: it does not honour ``n``.
    """

    def __init__(
        self,
        request: GenerateRequest,
        samples: Sequence[RemoteSample],
        *,
        transport: Transport,
        maker: BodyMaker,
        outbox: Outbox,
        on_usage: Callable[[ReportedUsage], None],
        model: str,
        context_length: int,
        has_running_usage: bool,
    ) -> None:
        self.begun = asyncio.Event()
        self.ignored: list[RemoteSample] = []
        self._request = request
        self._samples = tuple(samples)
        self._transport = transport
        self._maker = maker
        self._outbox = outbox
        self._on_usage = on_usage
        self._model = model
        self._context_length = context_length
        self._has_running_usage = has_running_usage
        self._usage: ReportedUsage | None = None
        self._max_tokens: int | None = None
        self._is_whole = not maker.streams(request)

    async def run(self) -> None:
        """Delivers all events of its samples.

        Raises:
            EngineFailed: No attempt brought a first token, or the stream broke after it.
            ContextOverflow: Prompt and one token do not fit.
        """
        try:
            attempt = 0
            while True:
                try:
                    await self._attempt()
                    return
                except PromptTooLong as error:
                    self._shorten(error)
                except UpstreamFailed as error:
                    if self.begun.is_set():
                        raise self._transport.failures.engine_failed(error) from error
                    if len(self._samples) > 1 and error.status in {400, 422, 501} and _MINDS_N.search(str(error)):
                        self.ignored = list(self._samples)
                        return
                    await self._transport.pause(attempt, error)
                    attempt += 1
        finally:
            self.begun.set()

    async def _attempt(self) -> None:
        body = self._maker.body(self._request, self._samples, max_tokens=self._max_tokens)
        try:
            await (self._receive(body) if self._is_whole else self._stream(body))
        except MalformedStream as error:
            raise UpstreamFailed(f"malformed reply: {error}") from error
        except ServerReportedError as error:
            raise self._transport.failures.of_error(error.error) from error

    async def _stream(self, body: Mapping[str, Any]) -> None:  # Any: JSON values
        stream = self._transport.stream(
            self._maker.path,
            body,
            num_samples=len(self._samples),
            is_paced=not self._maker.may_cut(self._request),
        )
        async with stream as reads:
            async for events in reads:
                await self._take(parse_chunks(events))
                if all(sample.is_finished for sample in self._samples):
                    return  # cut from here: leaving closes the connection
        self._finish()

    async def _receive(self, body: Mapping[str, Any]) -> None:  # Any: JSON values
        """Asks for a reply in one piece; while it is under way, nothing is known of what has been sampled."""
        for sample in self._samples:
            sample.unseen_tokens = self._max_tokens or sample.spec.max_tokens
        try:
            reply = await self._transport.whole(self._maker.path, body)
        except (PromptTooLong, UpstreamFailed):
            self._note_seen()
            raise
        self._note_seen()
        await self._take([parse_whole(reply)])
        self._finish()

    def _note_seen(self) -> None:
        for sample in self._samples:
            sample.unseen_tokens = 0

    async def _take(self, chunks: Iterable[Chunk]) -> None:
        """Takes what was read at once; what came before something bad in it is delivered all the same."""
        ended: list[tuple[RemoteSample, int | None]] = []
        changed: dict[int, RemoteSample] = {}
        known = self._usage
        try:
            for chunk in chunks:
                self._take_chunk(chunk, changed, ended)
        finally:
            if changed:
                self.begun.set()
            if self._usage is not None and self._usage is not known:
                self._on_usage(self._usage)
            for sample in changed.values():
                for delta in sample.deltas():
                    await self._outbox.put(delta)
            for sample, running in ended:
                self._outbox.put_now(sample.finished(running))

    def _take_chunk(
        self, chunk: Chunk, changed: dict[int, RemoteSample], ended: list[tuple[RemoteSample, int | None]]
    ) -> None:
        running: int | None = None
        if chunk.usage is not None:
            self._usage = chunk.usage
            running = chunk.usage.completion_tokens if self._has_running_usage and not self._is_whole else None
        for choice in chunk.choices:
            place = choice.place
            if not 0 <= place < len(self._samples):
                raise UpstreamFailed(f"sends choice {place} of {len(self._samples)}", is_retryable=False)
            sample = changed[place] = self._samples[place]
            if sample.has_ended():
                continue
            sample.take(choice, reported_tokens=running)
            if sample.has_ended():
                others_go_on = not all(other.has_ended() for other in self._samples)
                if sample.is_cut or (running and others_go_on):
                    ended.append((sample, running))

    def _finish(self) -> None:
        """The stream has ended: samples that wait for the server's count get it."""
        samples = self._samples
        if len(samples) > 1 and samples[0].has_ended():
            self.ignored = [sample for sample in samples if not sample.has_ended() and not sample.counted_tokens]
            samples = tuple(sample for sample in samples if sample not in self.ignored)
        if not all(sample.has_ended() for sample in samples):
            raise self._broken()
        waiting = [sample for sample in samples if not sample.is_finished]
        total = self._usage.completion_tokens if self._usage is not None else None
        parts = shares(total, samples, by_length=self._is_whole) if total is not None else None
        by_sample = dict(zip((sample.index for sample in samples), parts, strict=True)) if parts is not None else {}
        for sample in waiting:
            self._outbox.put_now(sample.finished(by_sample.get(sample.index, sample.reported_tokens)))

    def _broken(self) -> UpstreamFailed | PromptTooLong:
        estimate = estimated_tokens(self._request.prompt)
        if not self.begun.is_set() and estimate >= self._context_length:
            return PromptTooLong(None, None)  # llama_cpp.server closes the stream without a word
        return UpstreamFailed("the server closed the stream in the middle of a reply")

    def _shorten(self, error: PromptTooLong) -> None:
        """The prompt fits but not with all the tokens asked for: ask for those that fit.

        Raises:
            ContextOverflow: Not even one fits, or the server's word leaves that open.
        """
        length = error.context_length or self._context_length
        prompt_tokens = error.prompt_tokens
        if self.begun.is_set() or self._max_tokens is not None or prompt_tokens is None or prompt_tokens >= length:
            raise ContextOverflow(
                model=self._model,
                prompt_tokens=prompt_tokens or estimated_tokens(self._request.prompt),
                context_length=length,
            ) from error
        self._max_tokens = min(length - prompt_tokens, self._samples[0].spec.max_tokens)


def cancelled(samples: Sequence[RemoteSample], outbox: Outbox, *, detail: str = "") -> None:
    """Ends all that live."""
    for sample in samples:
        if not sample.is_finished:
            outbox.put_now(sample.finished(None) if sample.has_ended() else sample.cancelled(detail))
