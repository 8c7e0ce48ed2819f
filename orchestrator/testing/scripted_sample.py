"""One sample of a scripted engine: a reply cut into tokens, and where limits, stop strings and monitors end it."""

from __future__ import annotations

import codecs
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.engine import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Prompt,
    TokenAlternatives,
)
from orchestrator.stopping import Ending, SampleText
from orchestrator.testing.scripts import Reply, log_probability
from orchestrator.testing.vocabulary import Vocabulary

_CACHED_REPLIES = 1024


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A text as tokens; `texts[i]` are the characters that token i completes."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]
    texts: tuple[str, ...]
    text: str
    is_ascii: bool


class Continuation(NamedTuple):
    """What has been written of a reply: ids where they are of this vocabulary, else its text as tokens."""

    ids: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class ReplyTokens:
    """What a sample is going to say, and how many tokens came before it (for positions)."""

    reply: Reply
    pieces: _Pieces
    offset: int = 0


class SpokenReply:
    """Turns replies into tokens, with a memory, because scripts repeat themselves."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._memory: OrderedDict[bytes, _Pieces] = OrderedDict()

    def continuation(self, prompt: Prompt) -> Continuation:
        """The partial reply of a prompt, span by span."""
        ids: list[int] = []
        data: list[bytes] = []
        for span in prompt.continuation:
            if span.token_ids is not None and span.tokenizer == self._vocabulary.fingerprint:
                ids += span.token_ids
                data += map(self._vocabulary.piece, span.token_ids)
            else:
                ids += self._vocabulary.tokenize(span.text)
                data.append(span.text.encode("utf-8", "replace"))
        return Continuation(tuple(ids), b"".join(data))

    def tokens(self, reply: str | Reply, *, limit: int) -> ReplyTokens:
        """The whole reply."""
        reply = reply if isinstance(reply, Reply) else Reply(text=reply)
        data = reply.text.encode("utf-8", "replace")
        return ReplyTokens(reply, self._pieces(_repeated(data, limit) if reply.is_endless else data))

    def rest(self, reply: str | Reply, written: Continuation, *, limit: int) -> ReplyTokens | None:
        """What of the reply comes after what is written; None if that is not how it begins."""
        reply = reply if isinstance(reply, Reply) else Reply(text=reply)
        data = reply.text.encode("utf-8", "replace")
        if reply.is_endless:
            data = _repeated(data, limit, skip_bytes=len(written.data))
        if not data.startswith(written.data):
            return None
        return ReplyTokens(reply, self._pieces(data[len(written.data) :]), len(written.ids))

    def _pieces(self, data: bytes) -> _Pieces:
        known = self._memory.get(data)
        if known is not None:
            return known
        ids = self._vocabulary.tokenize_bytes(data)
        pieces = tuple(map(self._vocabulary.piece, ids))
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        texts = tuple(map(decode, pieces))
        known = _Pieces(ids, pieces, texts, "".join(texts), data.isascii())
        self._memory[data] = known
        if len(self._memory) > _CACHED_REPLIES:
            self._memory.popitem(last=False)
        return known


def _repeated(data: bytes, limit: int, *, skip_bytes: int = 0) -> bytes:
    """Enough repetitions for ``limit`` tokens of at most eleven bytes after ``skip_bytes``."""
    data = data or b" "
    return data * ((skip_bytes + 11 * limit) // len(data) + 1)


class ScriptedSample:
    """A sample in the making; `take` advances it.

    Args:
        index: Its place in the request.
        spoken: What it is going to say.
        vocabulary: For log probabilities of other tokens.
        request: For stop strings, monitors and log probabilities.
        seed: After the temperature has had its say.
        limit: Most tokens.
        lie: Added to the count it reports in the end.
    """

    def __init__(
        self,
        index: int,
        spoken: ReplyTokens,
        vocabulary: Vocabulary,
        request: GenerateRequest,
        *,
        seed: int,
        limit: int,
        lie: int = 0,
    ) -> None:
        self.index = index
        self.seed = seed
        self.text = ""
        self.is_live = True
        self.num_tokens = 0
        self._spoken = spoken
        self._vocabulary = vocabulary
        self._num_logprobs = request.num_logprobs
        self._limit = limit
        self._tool_calls = spoken.reply.tool_calls if request.tools is not None else ()
        self._lie = lie
        self._taken = 0
        self._watched = _watched(request, spoken.pieces.text)
        self._watcher_logprobs = max((monitor.num_logprobs for monitor in request.monitors), default=0)

    def num_next(self, wanted: int) -> int:
        """How many tokens `take` will give, unless a stop string or monitor ends it earlier."""
        rest = len(self._spoken.pieces.ids) - self._taken + (not self._spoken.reply.is_endless)
        return min(wanted, self._limit - self.num_tokens, rest)

    def take(self, wanted: int) -> tuple[Delta, Finished | None]:
        """The next tokens, at least one, and the sample's end if they reach it."""
        pieces, start = self._spoken.pieces, self._taken
        count = self.num_next(wanted)
        end = min(start + count, len(pieces.ids))
        ending: Ending | None = None
        if self._watched is not None:
            end, ending = self._watch(self._watched, start, end)
        self._taken = end
        says_end = ending is None and end - start < count
        num_tokens = end - start + says_end
        self.num_tokens += num_tokens
        reason, detail = None, None
        if ending is not None:
            reason, detail = ending
        elif says_end:
            reason = FinishReason.TOOL_CALL if self._tool_calls else self._spoken.reply.finish
        elif self.num_tokens >= self._limit:
            reason = FinishReason.LENGTH
        text = "".join(pieces.texts[start:end])
        self.text += text
        if reason is not None:
            text += self._last_characters()
            self.is_live = False
        delta = Delta(self.index, text, num_tokens, pieces.ids[start:end], *self._logprobs(start, end))
        if reason is None:
            return delta, None
        calls = self._tool_calls if reason is FinishReason.TOOL_CALL else ()
        return delta, Finished(self.index, reason, self.num_tokens + self._lie, detail, tool_calls=calls)

    def cancel(self) -> tuple[Delta | Finished, ...]:
        """Its end for want of interest."""
        self.is_live = False
        finished = Finished(self.index, FinishReason.CANCELLED, self.num_tokens + self._lie)
        tail = self._last_characters()
        return (Delta(self.index, tail, 0, ()), finished) if tail else (finished,)

    def _watch(self, watched: SampleText, start: int, end: int) -> tuple[int, Ending | None]:
        pieces = self._spoken.pieces
        for position in range(start, end):
            top = self._alternatives(position, self._watcher_logprobs).logprobs if self._watcher_logprobs else ()
            ending = watched.push(pieces.pieces[position], pieces.ids[position], top_logprobs=top)
            if ending is not None:
                return position + 1, ending
        return end, None

    def _last_characters(self) -> str:
        """U+FFFD for a character that was cut in the middle."""
        if self._spoken.pieces.is_ascii:
            return ""
        whole = b"".join(self._spoken.pieces.pieces[: self._taken]).decode("utf-8", "replace")
        tail = whole[len(self.text) :]
        self.text += tail
        return tail

    def _logprobs(self, start: int, end: int) -> tuple[tuple[float, ...] | None, tuple[TokenAlternatives, ...] | None]:
        if not self._num_logprobs:
            return None, None
        chosen = tuple(self._chosen_logprob(position) for position in range(start, end))
        return chosen, tuple(self._alternatives(position, self._num_logprobs) for position in range(start, end))

    def _chosen_logprob(self, position: int) -> float:
        reply, token = self._spoken.reply, self._spoken.pieces.ids[position]
        place = self._spoken.offset + position
        if place in reply.alternatives:
            given = _by_token(self._vocabulary, reply.alternatives[place])
            if token in given:
                return log_probability(given[token])
        return reply.logprob if reply.logprob is not None else pseudo_logprob(token, place)

    def _alternatives(self, position: int, num_tokens: int) -> TokenAlternatives:
        reply, token = self._spoken.reply, self._spoken.pieces.ids[position]
        place = self._spoken.offset + position
        if place in reply.alternatives:
            given = _by_token(self._vocabulary, reply.alternatives[place])
            ranked = sorted(given, key=lambda other: given[other], reverse=True)[:num_tokens]
            return TokenAlternatives(tuple(ranked), tuple(log_probability(given[other]) for other in ranked))
        logprob = self._chosen_logprob(position)
        others = self._vocabulary.others(token, num_tokens - 1)
        return TokenAlternatives((token, *others), (logprob, *_falling(logprob, len(others))))


def pseudo_logprob(token_id: int, position: int) -> float:
    """A log probability between -0.6 and -0.01 that depends on the token and its place in the reply."""
    mixed = (token_id * 0x9E3779B97F4A7C15 ^ (position + 1) * 0xC2B2AE3D27D4EB4F) & 0xFFFFFFFFFFFFFFFF
    return log_probability(0.55 + 0.44 * (mixed >> 11) / 2**53)


def _watched(request: GenerateRequest, text: str) -> SampleText | None:
    """Something to feed token by token; None when nothing can end this text early, which is much faster."""
    if request.monitors or any(stop in text for stop in request.stop):
        return SampleText(stop=request.stop, monitors=request.monitors)
    return None


def _by_token(vocabulary: Vocabulary, probabilities: Mapping[str, float]) -> dict[int, float]:
    return {ids[0]: probability for text, probability in probabilities.items() if (ids := vocabulary.tokenize(text))}


def _falling(logprob: float, num_others: int) -> Sequence[float]:
    """Log probabilities of tokens less likely than the chosen one; together with it they make up at most 1."""
    ceiling = math.exp(logprob)
    rest = 1.0 - ceiling
    values: list[float] = []
    for _ in range(num_others):
        ceiling = min(ceiling * 0.99, rest / 2)
        rest -= ceiling
        values.append(log_probability(ceiling))
    return values
