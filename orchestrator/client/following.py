"""The events of a job over connections that may break: where the stream stands, what to ask for next, when it is over.

Pure state; the clients do the reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from orchestrator.client.failures import error_from_json
from orchestrator.client.sse import Message, MessageReader
from orchestrator.errors import ServiceFailed
from orchestrator.events import Event


class Following:
    """One job's stream of events, across connections.

    Durable events (those with a `seq`) come in order, each once: a connection asks for what comes after the last one
    that the caller has. Text deltas are not durable: those of the time between two connections are lost.

    Args:
        after: The last durable event that the caller has seen; -1 for none.

    Attributes:
        is_over: The job's last event has come.
    """

    def __init__(self, *, after: int = -1) -> None:
        self.after = after
        self.is_over = False
        self._reader = MessageReader()

    @property
    def headers(self) -> dict[str, str]:
        """For the next connection."""
        self._reader = MessageReader()
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        return headers if self.after < 0 else headers | {"last-event-id": str(self.after)}

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The new events that this piece of the stream completes.

        Raises:
            TtcError: The service reports an error in the stream, or sends what is no event.
        """
        for message in self._reader.feed(piece):
            event = event_of(message)
            if event is None or self._is_known(event):
                continue
            if event.kind in {"final", "result"}:
                self.is_over = True
            yield event

    def _is_known(self, event: Event) -> bool:
        if event.seq is None:
            return False
        is_known = event.seq <= self.after
        self.after = max(self.after, event.seq)
        return is_known


def event_of(message: Message) -> Event | None:
    """The job's event that a message carries; None for those that are none of ours.

    Raises:
        TtcError: It is the report of an error.
        ServiceFailed: It cannot be read.
    """
    try:
        data = json.loads(message.data)
        seq = int(message.id) if message.id else None
    except ValueError as error:
        raise ServiceFailed(f"an event of kind {message.kind!r} cannot be read: {error}", is_retryable=True) from error
    if not isinstance(data, dict):
        return None
    if message.kind == "error":
        raise error_from_json(data.get("error", data))
    return Event(message.kind, data, seq)


class Chunks:
    """The chunks of one chat.

    Attributes:
        is_over: The last one has come.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._reader = MessageReader()

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:  # Any: JSON values
        """The chunks that this piece of the stream completes.

        Raises:
            TtcError: The service reports an error in the stream, or sends what is no chunk.
        """
        for message in self._reader.feed(piece):
            if message.data == "[DONE]":
                self.is_over = True
                return
            event = event_of(message)
            if event is None:
                continue
            if "error" in event.data:
                raise error_from_json(event.data["error"])
            yield event.data

    def check_end(self) -> None:
        """To be called when the connection has ended.

        Raises:
            ServiceFailed: The chat had not.
        """
        if not self.is_over:
            raise ServiceFailed("the service broke off in the middle of a reply")
