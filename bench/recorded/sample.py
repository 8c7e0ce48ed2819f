"""One sample while it is recorded: its text, where each of its tokens ends in it, and their log probabilities."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from orchestrator.bench.recorded.lines import MAX_LOGPROB
from orchestrator.bench.recorded.records import PoolSample, StepScores
from orchestrator.engine import Delta, Engine, Finished, FinishReason, Tokenizes
from orchestrator.errors import InvalidRequest

_MOST_SPLIT_TOKENS = 8
"""A character is spread over no more tokens than that."""
_REPLACEMENT = "\ufffd"


class TokenLengths:
    """How many characters each token of a text adds to it, for engines that tell the ids of tokens.

    Args:
        engine: Who wrote the text.
    """

    def __init__(self, engine: Engine) -> None:
        self._tokenizer = engine if isinstance(engine, Tokenizes) else None
        self._known: dict[int, int] = {}

    def of(self, text: str, token_ids: Sequence[int] | None) -> list[int] | None:
        """One length for each id; None if they cannot be told, or do not make up the text."""
        if token_ids is None or self._tokenizer is None:
            return None
        lengths: list[int] = []
        start = told = 0  # of tokens that end within a character: the first one, and their whole characters so far
        for place, token in enumerate(token_ids):
            length = self._known.get(token) if start == place else None
            if length is None:
                piece = self._tokenizer.detokenize(token_ids[start : place + 1])
                is_part = piece.endswith(_REPLACEMENT) and place - start < _MOST_SPLIT_TOKENS
                whole = max(told, len(piece.rstrip(_REPLACEMENT))) if is_part else len(piece)
                length = whole - told
                if is_part:
                    lengths.append(length)
                    told = whole
                    continue
                if start == place:
                    self._known[token] = length
            lengths.append(length)
            start, told = place + 1, 0
        missing = len(text) - sum(lengths)
        if lengths and start < len(token_ids) and missing > 0:
            lengths[-1] += missing  # the sample was cut within a character
            missing = 0
        return lengths if missing == 0 else None


class SampleRecord:
    """Takes the events of one sample."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._ids: list[int] | None = []
        self._chunks: list[tuple[int, int]] = []  # characters and tokens of each delta
        self._logprobs: list[float] = []
        self._finished: Finished | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its last event has come."""
        return self._finished is not None

    @property
    def text(self) -> str:
        """What has come of it."""
        return "".join(self._text)

    @property
    def is_final(self) -> bool:
        """Whether the model ended it itself; only then does the controller read its answer."""
        return self._finished is not None and self._finished.reason is FinishReason.END

    def take(self, event: Delta | Finished) -> None:
        """Its next event."""
        if isinstance(event, Finished):
            self._finished = event
            return
        self._text.append(event.text)
        self._chunks.append((len(event.text), event.num_tokens))
        if event.token_ids is None:
            self._ids = None
        elif self._ids is not None:
            self._ids += event.token_ids
        self._logprobs += event.logprobs or ()

    def sample(
        self,
        lengths: TokenLengths,
        *,
        answer: str | None,
        is_correct: bool,
        scores: Mapping[str, StepScores],
        has_logprobs: bool,
    ) -> PoolSample:
        """The complete sample.

        Raises:
            InvalidRequest: Log probabilities are wanted and some are missing.
        """
        assert self._finished is not None, "a complete sample has ended"
        text = self.text
        num_tokens = max(self._finished.output_tokens, bool(text))
        exact = lengths.of(text, self._ids)
        sizes = [*exact, *[0] * (num_tokens - len(exact))] if exact is not None else self._estimated(num_tokens)
        if len(sizes) != num_tokens or sum(sizes) != len(text):
            sizes = _shared_out(len(text), num_tokens)
        sample = PoolSample(
            text=text,
            ends=array("I", accumulate(sizes)),
            finish=self._finished.reason,
            answer=answer,
            is_correct=is_correct,
            scores=scores,
        )
        return replace(sample, logprobs=self._hundredths(sample.text_tokens)) if has_logprobs else sample

    def _hundredths(self, num_tokens: int) -> array[int]:
        if len(self._logprobs) < num_tokens:
            message = "the model does not tell the log probability of every token; record without log probabilities"
            raise InvalidRequest(message, field="want_logprobs", value=True)
        capped = (max(value, -MAX_LOGPROB / 100) for value in self._logprobs[:num_tokens])
        return array("H", (max(0, round(-100 * value)) for value in capped))

    def _estimated(self, num_tokens: int) -> list[int]:
        """For engines that tell no ids: the characters of each delta are shared out among its tokens."""
        sizes: list[int] = []
        for num_chars, tokens in self._chunks:
            if tokens:
                sizes += _shared_out(num_chars, tokens)
            elif num_chars and sizes:
                sizes[-1] += num_chars
        return [*sizes, *[0] * (num_tokens - len(sizes))]


def _shared_out(num_chars: int, num_tokens: int) -> list[int]:
    return [num_chars * (place + 1) // num_tokens - num_chars * place // num_tokens for place in range(num_tokens)]
