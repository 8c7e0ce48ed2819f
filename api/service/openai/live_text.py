"""The text of one choice on its way to a streaming client: nothing is sent that might have to be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from orchestrator.errors import EngineFailed

Json = dict[str, Any]  # Any: JSON values


class Piece(NamedTuple):
    """More text, with the log probabilities of the tokens that are complete with it."""

    text: str
    logprobs: list[Json]


class LiveText:
    """Text that arrives in deltas.

    Args:
        stop: Strings before which it ends; whatever may be the beginning of one is held back.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._held_chars = max((len(text) - 1 for text in self._stop), default=0)
        self._text = ""
        self._logprobs: list[Json] = []
        self._told_chars = 0
        self._has_stopped = False
        self._again: str | None = None
        self.sent = ""

    def take(self, text: str, logprobs: Sequence[Json] = ()) -> Piece:
        """What may be sent after more text has come.

        Raises:
            EngineFailed: The reply was begun anew, and does not go on as what has been sent.
        """
        if self._again is not None and not self._caught_up(text):
            return Piece("", [])
        if self._again is None:
            self._text += text
        self._again = None
        self._logprobs += logprobs
        if self._has_stopped:
            return Piece("", [])
        ends = [end for stop in self._stop if (end := self._text.find(stop)) >= 0]
        self._has_stopped = bool(ends)
        safe = min(ends) if ends else max(len(self.sent), len(self._text) - self._held_chars)
        return self._released(safe)

    def start_over(self) -> None:
        """The model begins the reply again; what has been sent must come once more."""
        self._again = ""
        self._logprobs.clear()

    def rest(self, whole: str) -> Piece:
        """What is left to be sent of the reply as it is in the end.

        Raises:
            EngineFailed: It is another one than what has been sent.
        """
        if not whole.startswith(self.sent):
            raise EngineFailed("the model began the reply again with other words", model="?", is_retryable=True)
        self._text = whole
        return self._released(len(whole), is_last=True)

    def _caught_up(self, text: str) -> bool:
        """Whether a reply that was begun again has come to where it had been."""
        assert self._again is not None, "it was begun again"
        self._again += text
        if self._again.startswith(self.sent):
            self._text = self._again
            return True
        if self.sent.startswith(self._again):
            return False
        raise EngineFailed("the model began the reply again with other words", model="?", is_retryable=True)

    def _released(self, end: int, *, is_last: bool = False) -> Piece:
        text = self._text[len(self.sent) : end]
        self.sent += text
        ready = 0
        for entry in self._logprobs:
            chars = self._told_chars + len(entry["token"])
            if chars > len(self.sent) and not (is_last and not self._has_stopped):
                break
            ready, self._told_chars = ready + 1, chars
        logprobs, self._logprobs = self._logprobs[:ready], self._logprobs[ready:]
        return Piece(text, logprobs)
