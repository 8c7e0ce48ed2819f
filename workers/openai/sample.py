"""One sample of a remote stream: cuts chunks into tokens, watches for its end, and keeps its count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    SampleSpec,
    TokenAlternatives,
)
from orchestrator.reply_form import ToolCall
from orchestrator.stopping import Ending, SampleText
from orchestrator.workers.openai.chunks import ChoiceChunk, TokenInfo, ToolCallPart

_REASONS = {
    "stop": FinishReason.END,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALL,
    "function_call": FinishReason.TOOL_CALL,
}


class _Piece(NamedTuple):
    text: str
    token: str
    info: TokenInfo | None


class RemoteSample:
    """State of one sample.

    Chunks are taken one by one; what has come together leaves in few deltas, as each costs its reader much more than
    the token it brings. They hold at most half as many tokens as may lie unread.

    Attributes:
        index: Its place in the request.
        spec: Its seed and limit.
        counted_tokens: Tokens seen here: as reported, else one for each chunk with text.
        reported_tokens: The server's count so far; None if it gives none.
        unseen_tokens: Most that may have been sampled unseen, which it is charged if it is ended from here.
        num_chars: Length of its text.
        ending: Why it ended, once it has.
        is_cut: It was ended from here; the server may have gone on a little.
        is_finished: Its `Finished` has been sent.
    """

    def __init__(self, index: int, spec: SampleSpec, request: GenerateRequest) -> None:
        self.index = index
        self.spec = spec
        self.counted_tokens = 0
        self.reported_tokens: int | None = None
        self.unseen_tokens = 0
        self.num_chars = 0
        self.ending: Ending | None = None
        self.is_cut = False
        self.is_finished = False
        self._num_logprobs = request.num_logprobs
        self._calls: dict[int, ToolCall] = {}
        self._watched: SampleText | None = None
        if request.stop or request.monitors:
            self._watched = SampleText(stop=request.stop, monitors=request.monitors)
        self._watched_logprobs = max((monitor.num_logprobs for monitor in request.monitors), default=0)
        self._most_tokens = max(1, min(request.max_unread_tokens, MAX_UNREAD_TOKENS) // 2)
        self._texts: list[str] = []
        self._num_tokens = 0
        self._deltas: list[Delta] = []

    def has_ended(self) -> bool:
        """Whether no more of it will come."""
        return self.ending is not None

    def take(self, choice: ChoiceChunk, *, reported_tokens: int | None = None) -> None:
        """Takes a chunk."""
        for part in choice.tool_calls:
            self._calls[part.index] = _extended(self._calls.get(part.index), part)
        sampled = len(choice.tokens) or len(choice.pieces) or int(choice.has_hidden_text)
        if reported_tokens:  # a server that reports nothing but zeros is not believed
            self.reported_tokens = max(reported_tokens, self.reported_tokens or 0)
            sampled = max(0, self.reported_tokens - self.counted_tokens)
        self.counted_tokens += sampled
        self.num_chars += sum(map(len, choice.pieces))
        texts, infos, ending = choice.pieces, choice.tokens, None
        if self._watched is not None:
            texts, infos, ending = _watch(self._watched, choice, num_logprobs=self._watched_logprobs)
        if ending is not None or choice.finish_reason is not None:
            self._note_end(choice, ending)
        self._add(texts, sampled)
        if self._num_logprobs:  # each token's goes with its text
            self._close_delta(infos)

    def deltas(self) -> list[Delta]:
        """What has been taken since the last call."""
        self._close_delta()
        deltas, self._deltas = self._deltas, []
        return deltas

    def _add(self, texts: Sequence[str], sampled: int) -> None:
        """Text and tokens for the next delta; when they are too many for one, each piece is a token."""
        most = self._most_tokens
        while len(texts) == sampled > most - self._num_tokens:
            room = most - self._num_tokens
            self._texts += texts[:room]
            self._num_tokens += room
            self._close_delta()
            texts, sampled = texts[room:], sampled - room
        if self._num_tokens + sampled > most:
            self._close_delta()
        self._texts += texts
        self._num_tokens += sampled

    def _note_end(self, choice: ChoiceChunk, ending: Ending | None) -> None:
        if ending is not None:
            self.ending = ending
            self.is_cut = choice.finish_reason is None
        elif choice.finish_reason is not None:
            reason = _REASONS.get(choice.finish_reason, FinishReason.END)
            detail = "" if choice.finish_reason in _REASONS else choice.finish_reason
            if self._calls and reason is FinishReason.END:
                reason = FinishReason.TOOL_CALL  # servers say "stop" where one tool was to be called
            if choice.stop_reason is not None:
                reason, detail = FinishReason.STOP, choice.stop_reason
            self.ending = Ending(reason, detail)

    def _close_delta(self, infos: Sequence[TokenInfo] = ()) -> None:
        """What waits becomes a delta; several, if a chunk brought more tokens than one may hold."""
        text = _bytes_of("".join(self._texts)).decode("utf-8", "replace")
        sampled, most = self._num_tokens, self._most_tokens
        self._texts, self._num_tokens = [], 0
        while text or sampled:
            now, infos_now = min(sampled, most), infos[:most]
            delta = Delta(self.index, text, now)
            if self._num_logprobs:
                logprobs = tuple(info.logprob for info in infos_now)
                alternatives = tuple(self._alternatives(info) for info in infos_now)
                texts = tuple(info.text for info in infos_now)
                delta = replace(delta, logprobs=logprobs, alternatives=alternatives, token_texts=texts)
            self._deltas.append(delta)
            text, sampled, infos = "", sampled - now, infos[most:]

    def _alternatives(self, info: TokenInfo) -> TokenAlternatives:
        top = info.top[: self._num_logprobs]
        return TokenAlternatives(tuple(token for token, _ in top), tuple(value for _, value in top))

    def finished(self, total_tokens: int | None) -> Finished:
        """Its last event.

        Args:
            total_tokens: Its share of what the server counted; None if it did not, or not to the end.
        """
        assert self.ending is not None, "a sample ends for a reason"
        self.is_finished = True
        seen = max(self.counted_tokens, self.reported_tokens or 0)
        is_estimated = total_tokens is None or self.is_cut or total_tokens < seen
        return Finished(
            self.index,
            self.ending.reason,
            max(seen, total_tokens or 0),
            detail=self.ending.detail or None,
            is_estimated=is_estimated,
            tool_calls=self._tool_calls() if self.ending.reason is FinishReason.TOOL_CALL else (),
        )

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        calls = [call for _, call in sorted(self._calls.items())]
        return tuple(replace(call, id=call.id or f"call_{self.spec.seed}_{at}") for at, call in enumerate(calls))

    def cancelled(self, detail: str = "") -> Finished:
        """Its last event, if it is ended from outside."""
        self.ending, self.is_cut = Ending(FinishReason.CANCELLED, detail), True
        self.counted_tokens += self.unseen_tokens
        return self.finished(None)


def _watch(
    watched: SampleText, choice: ChoiceChunk, *, num_logprobs: int
) -> tuple[Sequence[str], tuple[TokenInfo, ...], Ending | None]:
    """What of a chunk belongs to the sample, and why it ends there, if it does."""
    infos: list[TokenInfo] = []
    ending: Ending | None = None
    for piece in _pieces(choice):
        if piece.info is not None:
            infos.append(piece.info)
        top = piece.info.top[:num_logprobs] if piece.info is not None else ()
        ending = watched.push(_bytes_of(piece.text), piece.token, top_logprobs=[value for _, value in top])
        if ending is not None:
            break
    return (watched.take(),), tuple(infos), ending


def _extended(call: ToolCall | None, part: ToolCallPart) -> ToolCall:
    if call is None:
        return ToolCall(part.id, part.name, part.arguments)
    return ToolCall(call.id or part.id, call.name or part.name, call.arguments + part.arguments)


def shares(total_tokens: int, samples: Sequence[RemoteSample], *, by_length: bool = False) -> list[int] | None:
    """Divides the server's count for a whole request among its samples; the shares add up to it exactly.

    Each gets what was seen of it; of the rest, one token each goes to those that the model ended (an end-of-turn
    token has no text), and what is left in proportion to what was seen, largest remainders first. None if the
    server counts less than was seen.

    Args:
        total_tokens: The server's count.
        samples: Among which it is divided.
        by_length: What was seen is text, not tokens.
    """
    result = [sample.counted_tokens for sample in samples]
    rest = total_tokens - sum(result)
    if rest < 0:
        return None
    for place, sample in enumerate(samples):
        if rest and sample.ending is not None and sample.ending.reason is FinishReason.END:
            result[place] += 1
            rest -= 1
    seen = [sample.num_chars for sample in samples] if by_length else result
    weights = [count or 1 for count in seen]
    exact = [rest * weight / sum(weights) for weight in weights]
    floors = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda place: floors[place] - exact[place])
    for place in order[: rest - sum(floors)]:
        floors[place] += 1
    return [count + extra for count, extra in zip(result, floors, strict=True)]


def _bytes_of(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which JSON can carry, becomes bytes that are none and so U+FFFD."""
    return text.encode("utf-8", "surrogatepass")


def _pieces(choice: ChoiceChunk) -> list[_Piece]:
    """The chunk's tokens; without log probabilities, each piece of text counts as one."""
    infos = choice.tokens
    if not infos:
        return [_Piece(text, text, None) for text in choice.pieces]
    if "".join(info.text for info in infos) == choice.text:
        return [_Piece(info.text, info.text, info) for info in infos]
    # Texts of tokens that hold part of a character are the server's makeshift; the chunk's own text is right.
    silent = [_Piece("", info.text, info) for info in infos[:-1]]
    return [*silent, _Piece(choice.text, infos[-1].text, infos[-1])]
