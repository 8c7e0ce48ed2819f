"""What a chunk of a streamed completion says, whichever of the two APIs and of the servers' variants it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic_core import from_json

from orchestrator.workers.openai.sse import MalformedStream, excerpt, text_of

_Json = Mapping[str, Any]  # Any: JSON values

_SHOWN_BYTES = 1000


class ServerReportedError(Exception):
    """The stream carries an error object instead of a chunk.

    Attributes:
        error: The object, with a ``message`` where the server gave one.
    """

    def __init__(self, error: _Json) -> None:
        super().__init__(str(error.get("message", error)))
        self.error = error


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as the server describes it: text, natural log probability, and the likeliest tokens at its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """More of one call: which, and what is added to its id, name and arguments."""

    index: int
    id: str
    name: str
    arguments: str


class ChoiceChunk(NamedTuple):
    """More of one sample.

    Attributes:
        place: Which choice of the request.
        pieces: New text; each piece came in a chunk of its own.
        tokens: Its tokens, where log probabilities were asked for.
        has_hidden_text: The chunk holds text that is no part of the reply, such as separated reasoning.
        finish_reason: Set on the choice's last chunk.
        stop_reason: The stop string that ended it, where the server says so.
        tool_calls: More of the calls that it asks for.
    """

    place: int
    pieces: Sequence[str]
    tokens: tuple[TokenInfo, ...] = ()
    has_hidden_text: bool = False
    finish_reason: str | None = None
    stop_reason: str | None = None
    tool_calls: tuple[ToolCallPart, ...] = ()

    @property
    def text(self) -> str:
        """The text in one piece."""
        return "".join(self.pieces)


class ReportedUsage(NamedTuple):
    """Tokens as the server counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Chunk(NamedTuple):
    """One event of a stream, or several that bring nothing but text."""

    choices: list[ChoiceChunk]
    usage: ReportedUsage | None = None


def parse_chunks(events: Sequence[bytes]) -> Iterator[Chunk]:
    """What events that have come together say. They are read at once, which is much cheaper than one by one, and those
    that follow each other and bring nothing but text become one chunk.

    Raises:
        ServerReportedError, MalformedStream: As of `parse_chunk`, after the chunks before it.
    """
    try:
        values = from_json(b"[" + b",".join(events) + b"]")
    except ValueError:
        values = []
    if len(values) != len(events):  # one of them is no JSON, or holds half a surrogate pair
        for event in events:
            yield parse_chunk(text_of(event))
        return
    texts: dict[int, list[str]] = {}
    usage: Any = None  # JSON value
    for value, event in zip(values, events, strict=True):
        only = _only_text(value)
        if only is None:
            if texts:
                yield _of_texts(texts, usage)
                texts, usage = {}, None
            yield _chunk(value, event)
            continue
        place, text, own_usage = only
        # The usage in a chunk may be its choice's own, so texts of several choices do not share one.
        if (own_usage or usage) and texts and texts.keys() != {place}:
            yield _of_texts(texts, usage)
            texts, usage = {}, None
        usage = own_usage or usage
        if place in texts:
            texts[place].append(text)
        else:
            texts[place] = [text]
    if texts:
        yield _of_texts(texts, usage)


def _only_text(value: Any) -> tuple[int, str, Any] | None:  # Any: JSON values
    """Choice, text and usage of the usual chunk of the chat API; None if it is another, which may say more."""
    try:
        (choice,) = value["choices"]
        place, delta = choice["index"], choice["delta"]
        text = delta["content"]
        is_usual = len(delta) == 1 and type(place) is int and type(text) is str and text
        if is_usual and not (choice.get("finish_reason") or choice.get("logprobs") or value.get("error")):
            return place, text, value.get("usage")
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def _of_texts(texts: Mapping[int, list[str]], usage: Any) -> Chunk:  # Any: JSON value
    try:
        return Chunk([ChoiceChunk(place, pieces) for place, pieces in texts.items()], usage_of(usage))
    except (TypeError, ValueError) as error:
        raise MalformedStream(f"a chunk counts tokens as {excerpt(str(usage))}") from error


def parse_chunk(data: str) -> Chunk:
    """The chunk in one event.

    Raises:
        ServerReportedError: It is an error object.
        MalformedStream: It is neither.
    """
    try:
        value = json.loads(data)
    except (json.JSONDecodeError, RecursionError) as error:
        raise MalformedStream(f"an event is not JSON: {excerpt(data)}") from error
    return _chunk(value, data)


def parse_whole(data: bytes) -> Chunk:
    """What a reply in one piece says.

    Raises:
        ServerReportedError: It is an error object.
        MalformedStream: It is no completion.
    """
    return parse_chunk(text_of(data))


def _chunk(value: Any, data: str | bytes) -> Chunk:  # Any: JSON value
    if not isinstance(value, dict):
        raise MalformedStream(f"an event is not a JSON object: {_shown(data)}")
    if "choices" not in value or "error" in value or value.get("object") == "error":
        _raise_error(value)
    try:
        choices = [_choice(choice) for choice in value.get("choices") or ()]
        return Chunk(choices, usage_of(value.get("usage")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MalformedStream(f"an event is no chunk of a completion: {_shown(data)}") from error


def _shown(data: str | bytes) -> str:
    return excerpt(data if isinstance(data, str) else data[:_SHOWN_BYTES].decode("utf-8", "replace"))


def usage_of(value: Any) -> ReportedUsage | None:  # Any: JSON value
    """A ``usage`` object; None where it is missing or holds no counts."""
    if not isinstance(value, dict) or value.get("prompt_tokens") is None:
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return ReportedUsage(
        prompt_tokens=max(0, int(value["prompt_tokens"])),
        completion_tokens=max(0, int(value.get("completion_tokens") or 0)),
        cached_tokens=max(0, int(cached or 0)),
    )


def _raise_error(value: _Json) -> None:
    error = value.get("error")
    if error:
        raise ServerReportedError(error if isinstance(error, dict) else {"message": str(error)})
    if value.get("object") == "error" or ("choices" not in value and "message" in value):
        raise ServerReportedError(value)


def _choice(choice: _Json) -> ChoiceChunk:
    delta = choice.get("delta") or choice.get("message")  # the latter in whole replies
    source: _Json = delta if isinstance(delta, dict) else choice
    text = source.get("content") if isinstance(delta, dict) else source.get("text")
    calls = source.get("tool_calls")
    stop_reason = choice.get("stop_reason")
    return ChoiceChunk(
        int(choice.get("index") or 0),
        (_text(text),) if text else (),
        _tokens(choice.get("logprobs")),
        bool(source.get("reasoning_content") or source.get("reasoning") or calls),
        choice.get("finish_reason") or None,
        stop_reason if isinstance(stop_reason, str) else None,
        tuple(_call_part(place, part) for place, part in enumerate(calls)) if calls else (),
    )


def _call_part(place: int, part: _Json) -> ToolCallPart:
    function: _Json = part.get("function") or {}
    index = part.get("index")
    return ToolCallPart(
        index=place if index is None else int(index),
        id=_text(part.get("id")),
        name=_text(function.get("name")),
        arguments=_text(function.get("arguments")),
    )


def _text(value: Any) -> str:  # Any: JSON value
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("text must be a string")
    return value


def _tokens(logprobs: Any) -> tuple[TokenInfo, ...]:  # Any: JSON value
    if not isinstance(logprobs, dict):
        return ()
    if logprobs.get("content") is not None:  # the chat API's shape; llama.cpp uses it for completions as well
        return tuple(
            TokenInfo(
                text=str(entry["token"]),
                logprob=float(entry["logprob"]),
                top=_sorted((str(top["token"]), float(top["logprob"])) for top in entry.get("top_logprobs") or ()),
            )
            for entry in logprobs["content"]
        )
    texts, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    return tuple(
        TokenInfo(
            text=str(text),
            logprob=float(value) if value is not None else 0.0,
            top=_sorted((str(token), float(logprob)) for token, logprob in (top or {}).items()),
        )
        for text, value, top in zip(texts, values, tops, strict=True)
    )


def _sorted(top: Any) -> tuple[tuple[str, float], ...]:  # Any: an iterable of pairs, checked by its users
    return tuple(sorted(top, key=lambda pair: -pair[1]))
