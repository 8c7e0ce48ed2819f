"""What a caller and a replica send each other, pickled: both are processes of one cluster and of one version."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass
from typing import Any

from orchestrator.engine import GenerateRequest, GenerationEvent, ModelDescription
from orchestrator.errors import InvalidRequest, TtcError
from orchestrator.workers.hosted.protocol import error_data, error_of


class Due:
    """A moment, as seconds from now; the time until it goes on while the message waits to be sent.

    Args:
        after_s: So many seconds from now; None for never.
    """

    def __init__(self, after_s: float | None) -> None:
        self._at = None if after_s is None else time.monotonic() + after_s

    @property
    def in_s(self) -> float | None:
        """Seconds from now, 0 at least; None for never."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def __reduce__(self) -> tuple[object, ...]:
        return Due, (self.in_s,)


@dataclass(frozen=True, slots=True)
class Order:
    """A request for samples.

    Attributes:
        key: Names the stream, here and in `attend`; its part before the slash names the caller.
        request: What is wanted.
        interval_s: Chunks that can wait follow each other no faster.
    """

    key: str
    request: GenerateRequest
    interval_s: float


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a replica says of one of its engines.

    Attributes:
        description: The model.
        abilities: Names of the protocols that it implements beside `Engine`.
        empty_prompt_tokens: What an empty message comes to; 0 if the engine does not tokenize.
    """

    description: ModelDescription
    abilities: tuple[str, ...]
    empty_prompt_tokens: int


def packed(value: object, *, what: str) -> bytes:
    """A value for the other side.

    Raises:
        InvalidRequest: It cannot be sent.
    """
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever objects of callers raise when they are pickled
        raise InvalidRequest(
            f"the {what} cannot be sent to the cluster: {error!r:.200}; it has to be made of plain values, its classes "
            "at the top of modules that the replicas can import",
            field=what,
        ) from error


def unpacked(data: bytes) -> Any:  # Any: as it was packed
    """The inverse of `packed`."""
    return pickle.loads(data)  # noqa: S301  # from a process of the same cluster


def events_packed(events: list[GenerationEvent]) -> bytes:
    """A chunk of a stream."""
    return pickle.dumps((events, None), pickle.HIGHEST_PROTOCOL)


def result_packed(value: object) -> bytes:
    """What a method returned."""
    return pickle.dumps((value, None), pickle.HIGHEST_PROTOCOL)


def error_packed(error: Exception, *, model: str) -> bytes:
    """What a stream or a method ended with."""
    return pickle.dumps((None, error_data(error, model=model)), pickle.HIGHEST_PROTOCOL)


def answer(data: bytes) -> Any:  # Any: events of a chunk, or what a method returned
    """What was sent back.

    Raises:
        TtcError: What it ended with.
    """
    value, failure = unpacked(data)
    if failure is not None:
        error: TtcError = error_of(failure)
        raise error
    return value
