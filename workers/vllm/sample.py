"""One sample as it is written: vLLM's tokens become text, and end where stop strings, monitors and limits say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from orchestrator.engine import (
    Finished,
    FinishReason,
    GenerateRequest,
    SampleSpec,
    TokenAlternatives,
)
from orchestrator.stopping import SampleText
from orchestrator.workers.vllm.outbox import Outbox, Tokens
from orchestrator.workers.vllm.vocabulary import Vocabulary


class Top(NamedTuple):
    """Log probabilities at one position: of the token that was sampled, and of the likeliest ones."""

    chosen: float
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class Sample:
    """Takes the tokens of one sample and puts its events into an outbox.

    Args:
        index: Its place in the request.
        spec: What is wanted.
        request: Of which it is part.
        limit: Most tokens: those asked for, or those that fit.
        vocabulary: Of the model.
        outbox: Where events go.

    Attributes:
        ids: Of its tokens so far.
        output_tokens: How many were sampled, an end-of-turn token included.
        is_over: Whether it has ended, and its `Finished` is in the outbox.
        is_held: Whether tokens were left out because too many lie unread; they are to be sampled again.
        num_dropped: Tokens that vLLM sampled beyond the end, or while it was held.
    """

    def __init__(
        self,
        index: int,
        spec: SampleSpec,
        request: GenerateRequest,
        *,
        limit: int,
        vocabulary: Vocabulary,
        outbox: Outbox,
    ) -> None:
        self.index = index
        self.seed = spec.seed
        self.limit = limit
        self.ids: list[int] = []
        self.output_tokens = 0
        self.is_over = False
        self.is_held = False
        self.num_dropped = 0
        self._vocabulary = vocabulary
        self._outbox = outbox
        self._num_logprobs = request.num_logprobs
        self._may_be_held = request.json_schema is None and request.grammar is None
        self._text = SampleText(stop=request.stop, monitors=request.monitors)

    def take(self, token_ids: Sequence[int], tops: Sequence[Top] | None) -> None:
        """Takes tokens up to the one that ends it, or up to where its reader is too far behind."""
        self.is_held = False
        part = self._part()
        for place, token in enumerate(token_ids):
            if self._may_be_held and self._outbox.room(self.index) - part.num_tokens <= 0:
                self.is_held = True
                self.num_dropped += len(token_ids) - place
                break
            if part.num_tokens == self._outbox.most_per_delta:
                self._put(part)
                part = self._part()
            ending = self._take(token, tops[place] if tops is not None else None, part)
            if ending is not None:
                self.num_dropped += len(token_ids) - place - 1
                self._put(part)
                self.finish(*ending)
                return
        self._put(part)

    def finish(self, reason: FinishReason, detail: str | None = None) -> None:
        """Ends it; what is left of its text goes first."""
        if self.is_over:
            return
        self.is_over = True
        self._text.finish()
        if rest := self._text.take():
            self._outbox.put_tokens(Tokens(self.index, rest, logprobs=self._none(), alternatives=self._none()))
        self._outbox.put(Finished(self.index, reason, self.output_tokens, detail))

    def _take(self, token: int, top: Top | None, part: Tokens) -> tuple[FinishReason, str | None] | None:
        self.output_tokens += 1
        part.num_tokens += 1
        if token in self._vocabulary.end_ids:
            return FinishReason.END, None
        self.ids.append(token)
        part.ids.append(token)
        if part.logprobs is not None and part.alternatives is not None and top is not None:
            count = self._num_logprobs
            part.logprobs.append(top.chosen)
            part.alternatives.append(TokenAlternatives(top.tokens[:count], top.logprobs[:count]))
        ending = self._text.push(
            self._vocabulary.piece(token), token, top_logprobs=top.logprobs if top is not None else ()
        )
        if ending is not None:
            return ending
        return (FinishReason.LENGTH, None) if self.output_tokens >= self.limit else None

    def _part(self) -> Tokens:
        return Tokens(self.index, logprobs=self._none(), alternatives=self._none())

    def _none(self) -> list[Any] | None:  # Any: of either list
        return [] if self._num_logprobs else None

    def _put(self, part: Tokens) -> None:
        if part.num_tokens:
            part.text = self._text.take()
            self._outbox.put_tokens(part)


def tops_of(logprobs: Any, *, count: int) -> list[Top]:  # Any: vLLM's FlatLogprobs
    """Its rows: the sampled token first, then the ``count`` likeliest, likeliest first."""
    tops: list[Top] = []
    for start, end in zip(logprobs.start_indices, logprobs.end_indices, strict=True):
        first, last = start + 1, min(start + 1 + count, end)
        tops.append(
            Top(
                min(0.0, logprobs.logprobs[start]),
                tuple(logprobs.token_ids[first:last]),
                tuple(min(0.0, value) for value in logprobs.logprobs[first:last]),
            )
        )
    return tops
