"""Reads an engine's stream to its end and checks, as it goes, what every stream must obey; used by contract suites."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    Prefilled,
    Span,
    Tokenizes,
)


@dataclass(slots=True)
class SampleTranscript:
    """All that came of one sample."""

    deltas: list[Delta] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def num_tokens(self) -> int:
        """Tokens delivered."""
        return sum(delta.num_tokens for delta in self.deltas)

    @property
    def token_ids(self) -> tuple[int, ...] | None:
        """Their ids without end-of-turn tokens; None if the engine tells none."""
        ids: list[int] = []
        for delta in self.deltas:
            if delta.token_ids is None:
                return None
            ids += delta.token_ids
        return tuple(ids)

    @property
    def reason(self) -> FinishReason:
        """Why it ended."""
        assert self.finished is not None, "the sample has not ended"
        return self.finished.reason

    def span(self, tokenizer: str | None) -> Span:
        """What a continuation of it starts from."""
        return Span(self.text, self.token_ids, tokenizer)


class Transcript:
    """What an engine said to one request; an AssertionError at the first event that is out of order.

    Args:
        engine: The engine.
        request: The request.
    """

    def __init__(self, engine: Engine, request: GenerateRequest) -> None:
        self._engine = engine
        self._request = request
        self.prefilled: Prefilled | None = None
        self.samples = [SampleTranscript() for _ in request.samples]

    @classmethod
    async def of(cls, engine: Engine, request: GenerateRequest) -> Transcript:
        """The whole stream."""
        transcript = cls(engine, request)
        async for _ in transcript.events():
            pass
        return transcript

    async def events(self) -> AsyncGenerator[GenerationEvent, None]:
        """Passes the engine's events on, each checked; the complete stream is checked at its end."""
        stream = self._engine.generate(self._request)
        try:
            async for event in stream:
                self._take(event)
                yield event
        finally:
            await close_stream(stream)
        self.check_complete()

    @property
    def only(self) -> SampleTranscript:
        """The one sample."""
        (sample,) = self.samples
        return sample

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        assert self.prefilled is not None, "no Prefilled came"
        return self.prefilled.prompt_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens delivered, over all samples."""
        return sum(sample.num_tokens for sample in self.samples)

    def check_complete(self) -> None:
        """Every sample has ended and its counts, ids and text agree."""
        assert self.prefilled is not None, "a stream has one Prefilled"
        for index, sample in enumerate(self.samples):
            assert sample.finished is not None, f"sample {index} has no Finished"
            self._check_counts(index, sample)
            if sample.token_ids is not None and isinstance(self._engine, Tokenizes):
                assert self._engine.detokenize(sample.token_ids) == sample.text, "the text of the ids is not the text"

    def _check_counts(self, index: int, sample: SampleTranscript) -> None:
        assert sample.finished is not None
        if not self._engine.describe().counts_exactly:
            return
        assert sample.finished.output_tokens == sample.num_tokens, f"sample {index}: deltas and Finished disagree"
        assert sample.num_tokens <= self._request.samples[index].max_tokens, f"sample {index} is longer than asked for"
        assert not sample.finished.is_estimated, "exact counts are not estimates"
        if sample.token_ids is not None:
            num_ends = sample.num_tokens - len(sample.token_ids)
            assert num_ends in {0, 1}, f"sample {index}: all tokens but an end of turn have ids"
            assert not num_ends or sample.reason in {FinishReason.END, FinishReason.TOOL_CALL}

    def _take(self, event: GenerationEvent) -> None:
        match event:
            case Prefilled():
                is_exact = self._engine.describe().counts_exactly
                assert self.prefilled is None or not is_exact, "Prefilled comes once from an engine that counts exactly"
                assert 0 <= event.cached_tokens <= event.prompt_tokens
                self.prefilled = event
            case Delta():
                self._sample(event.index).deltas.append(event)
                assert 0 <= event.num_tokens <= MAX_UNREAD_TOKENS, f"a delta of {event.num_tokens} tokens"
                assert event.token_ids is None or len(event.token_ids) <= event.num_tokens
                self._check_logprobs(event)
            case Finished():
                self._sample(event.index).finished = event

    def _sample(self, index: int) -> SampleTranscript:
        assert self.prefilled is not None, "Prefilled comes first"
        assert 0 <= index < len(self.samples), f"there is no sample {index}"
        assert self.samples[index].finished is None, f"sample {index} has ended already"
        return self.samples[index]

    def _check_logprobs(self, delta: Delta) -> None:
        wanted = self._request.num_logprobs
        if not wanted:
            return
        assert delta.logprobs is not None, "log probabilities were asked for"
        assert delta.alternatives is not None, "alternatives were asked for"
        assert all(value <= 1e-6 for value in delta.logprobs), "log probabilities are at most 0"
        if delta.token_ids is not None:
            assert len(delta.logprobs) == len(delta.token_ids) == len(delta.alternatives)
        for chosen, row in zip(delta.logprobs, delta.alternatives, strict=True):
            assert 1 <= len(row.tokens) == len(row.logprobs) <= wanted + 1
            assert list(row.logprobs) == sorted(row.logprobs, reverse=True), "alternatives come likeliest first"
            assert chosen <= row.logprobs[0] + 1e-4, "no token is likelier than the likeliest"


async def close_stream(events: AsyncIterator[object]) -> None:
    """Closes a stream early, as a reader does that has seen enough."""
    close = getattr(events, "aclose", None)
    assert close is not None, "a stream can be closed: generate is an async generator"
    await close()
