"""Follows one job for a client: gathers what will be needed when it ends, and shows text that is the answer's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from orchestrator.api.service.openai.live_text import LiveText, Piece
from orchestrator.api.service.openai.planning import Plan
from orchestrator.errors import ServiceStopping
from orchestrator.events import Event
from orchestrator.job import Result

Json = dict[str, Any]  # Any: JSON values


class Shown(NamedTuple):
    """More text of a choice."""

    place: int
    piece: Piece


class Watch:
    """Takes a job's events, in order.

    Args:
        plan: What was asked for.

    Attributes:
        job_id: Once the job has started.
        result: Once it has ended.
        logprobs: Of each choice whose text came in deltas.
    """

    def __init__(self, plan: Plan) -> None:
        self.job_id = ""
        self.result: Result | None = None
        self.logprobs: list[list[Json]] = []
        self._plan = plan
        self._texts: dict[str, LiveText] = {}
        self._position: str | None = None
        self._deltas: list[Json] = []

    @property
    def ended(self) -> Result:
        """How the job ended.

        Raises:
            ServiceStopping: It did not, and will not.
        """
        if self.result is None:
            raise ServiceStopping("the service was stopped before the reply was complete; try again")
        return self.result

    def take(self, event: Event) -> list[Shown]:
        """What an event adds to the choices that may be shown while they are generated.

        Raises:
            EngineFailed: What has been shown is not true any more.
        """
        if event.kind == "started":
            self.job_id = event.data["job_id"]
        elif event.kind == "result":
            self.result = event.data["result"]
        elif event.kind == "delta" and self._plan.streams_live:
            self._deltas.append(event.data)
            return self._take_deltas()
        elif event.kind == "answer_delta" and self._position is None:
            self._position = event.data["node"].partition(".")[0]
            return self._take_deltas()
        return []

    def rest(self, index: int, whole: str) -> Piece:
        """What has not been shown of a choice.

        Raises:
            EngineFailed: Something else has been shown.
        """
        return self._text_of(index).rest(whole)

    def _take_deltas(self) -> list[Shown]:
        """What has come, as soon as it is known which action's samples are the replies: those beside the answer."""
        if self._position is None:
            return []
        deltas, self._deltas = self._deltas, []
        return [shown for data in deltas for shown in self._take_delta(data)]

    def _take_delta(self, data: Json) -> Iterator[Shown]:
        position, _, place = data["node"].partition(".")
        if position != self._position:
            return  # not a reply to the conversation itself
        index = int(place)
        text = self._text_of(index)
        if data.get("starts_over"):
            text.start_over()
            return
        piece = text.take(data["text"], data.get("logprobs", ()))
        self._note(index, piece)
        if piece.text:
            yield Shown(index, piece)

    def _text_of(self, index: int) -> LiveText:
        return self._texts.setdefault(str(index), LiveText(self._plan.form.stop))

    def _note(self, index: int, piece: Piece) -> None:
        while len(self.logprobs) <= index:
            self.logprobs.append([])
        self.logprobs[index] += piece.logprobs
