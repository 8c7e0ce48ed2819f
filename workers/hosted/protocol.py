"""What a hosted engine and its host say to each other: the methods that can be called, errors, events of a stream.

Messages from the engine to its host:

    open OPENER TARGET SETTINGS SYS_PATH LEVEL     first; answered by ``opened`` or ``failed``
    generate N REQUEST                             begins stream N, and asks for its first events
    more [N, ...]                                  the readers of these streams have taken everything and want more
    cancel N | close N                             ends the stream, with or without its last events
    call N METHOD ARGUMENTS NAMED                  answered by ``result N`` or ``error N``
    drop N                                         nobody waits for call N any more
    bye                                            close the engine and end

Messages from the host:

    opened DESCRIPTION ABILITIES EMPTY_PROMPT_TOKENS
    failed ERROR
    events [[N, EVENTS], ...]
    end N ERROR-or-null
    result N VALUE | error N ERROR
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.engine import (
    Delta,
    Embeddings,
    Embeds,
    Finished,
    GenerationEvent,
    GivesLogits,
    LogitRow,
    Prefilled,
    Prompt,
    RewardsSteps,
    ScoresTokens,
    StepRewards,
    Tokenizes,
    TokenScores,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed, TtcError, from_fields
from orchestrator.workers.hosted.codec import Blobs, decode, encode

_LOG = logging.getLogger(__name__)

ABILITIES: dict[str, type] = {
    kind.__name__: kind for kind in (Tokenizes, ScoresTokens, Embeds, GivesLogits, RewardsSteps)
}
"""The protocols an engine may implement beside `Engine`, by name."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of an engine that can be called from another process.

    Attributes:
        arguments: Types of its positional arguments.
        result: Type of what it returns.
        named: Types of its keyword arguments.
    """

    arguments: tuple[Any, ...]  # Any: types
    result: Any  # Any: a type
    named: Mapping[str, Any] = field(default_factory=dict)  # Any: types


_IDS = tuple[int, ...]
_TEXTS = tuple[str, ...]

METHODS: dict[str, Method] = {
    "health": Method((), EngineHealth),
    "release": Method((str,), None, {"keep": tuple[Prompt, ...]}),
    "check_integrity": Method((), None),
    "count_prompt_tokens": Method((Prompt,), int),
    "tokenize": Method((str,), _IDS),
    "detokenize": Method((_IDS,), str),
    "score_tokens": Method((Prompt, _IDS), TokenScores, {"tree_id": str}),
    "embed": Method((_TEXTS,), Embeddings),
    "logits": Method((Prompt,), LogitRow),
    "reward_steps": Method((Prompt, _TEXTS), StepRewards, {"num_known": int, "tree_id": str}),
}


def call_message(number: int, name: str, arguments: Sequence[Any], named: Mapping[str, Any], blobs: Blobs) -> list[Any]:
    """The message that calls a method; Any: values of the types in `METHODS`, JSON values."""
    method = METHODS[name]
    given = [encode(hint, value, blobs) for hint, value in zip(method.arguments, arguments, strict=True)]
    return ["call", number, name, given, {key: encode(method.named[key], value, blobs) for key, value in named.items()}]


def called_with(name: str, given: Sequence[Any], named: Mapping[str, Any], blobs: Blobs) -> tuple[list[Any], Any]:
    """The arguments in a message of `call_message`: positional ones, keyword ones."""
    method = METHODS[name]
    arguments = [decode(hint, value, blobs) for hint, value in zip(method.arguments, given, strict=True)]
    return arguments, {key: decode(method.named[key], value, blobs) for key, value in named.items()}


# Events

_EVENT_KINDS: tuple[type, ...] = (Prefilled, Delta, Finished)
_EVENT_PLACES = {kind: place for place, kind in enumerate(_EVENT_KINDS)}


def event_data(event: GenerationEvent, blobs: Blobs) -> list[Any]:  # Any: JSON values
    """An event of a stream."""
    return [_EVENT_PLACES[type(event)], *encode(type(event), event, blobs)]


def event_of(data: Sequence[Any], blobs: Blobs) -> GenerationEvent:  # Any: JSON values
    """The inverse of `event_data`."""
    event: GenerationEvent = decode(_EVENT_KINDS[data[0]], data[1:], blobs)
    return event


# Errors


def error_data(error: Exception, *, model: str) -> dict[str, Any]:  # Any: JSON values
    """An error as a message carries it; what is none of ours is logged here and becomes an `EngineFailed`."""
    if not isinstance(error, TtcError):
        _LOG.error("the engine raised an unexpected error", exc_info=error, extra={"model": model})
        error = EngineFailed(f"model {model!r} raised {error!r:.200}", model=model, is_retryable=False)
    fields: dict[str, Any] = json.loads(json.dumps(error.fields(), default=lambda value: f"{value!r:.200}"))
    return fields


def error_of(data: dict[str, Any]) -> TtcError:  # Any: JSON values
    """The inverse of `error_data`."""
    return from_fields(data)
