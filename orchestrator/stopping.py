"""Where a sample ends: turns tokens into text and applies stop strings and monitors, one token at a time.

Engines that decode tokens themselves feed `SampleText`; it is the one place where partial characters, stop strings
that span tokens, and monitors meet.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.engine import FinishReason
from orchestrator.monitors import Monitor


class Ending(NamedTuple):
    """Why a sample ends at this token."""

    reason: FinishReason
    detail: str


class SampleText:
    """The text of one sample as its tokens arrive.

    Bytes of a character that is split over tokens are held back until it is whole, so every prefix of the text is
    valid; bytes that can never become UTF-8 turn into U+FFFD.
    """

    def __init__(self, *, stop: Sequence[str] = (), monitors: Sequence[Monitor] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, self._stop), default=0)
        self._watchers = [(monitor, monitor.watch()) for monitor in monitors]
        self._text = ""
        self._taken = 0

    @property
    def text(self) -> str:
        """All whole characters so far."""
        return self._text

    def push(self, piece: bytes, token: int | str, *, top_logprobs: Sequence[float] = ()) -> Ending | None:
        """Takes one token; says whether the sample ends with it."""
        seen = len(self._text)
        self._text += self._decoder.decode(piece)
        if self._stop and len(self._text) > seen:
            window_start = max(0, seen - self._longest_stop + 1)
            for stop in self._stop:
                if self._text.find(stop, window_start) >= 0:
                    return Ending(FinishReason.STOP, stop)
        ending = None
        for monitor, watcher in self._watchers:  # every watcher sees every token, also after one has cut
            if watcher.sees(self._text, token, top_logprobs) and ending is None:
                ending = Ending(FinishReason.MONITOR, monitor.name)
        return ending

    def finish(self) -> None:
        """No more tokens: an incomplete last character becomes U+FFFD."""
        self._text += self._decoder.decode(b"", final=True)

    def take(self) -> str:
        """Text that has not been taken yet."""
        fresh = self._text[self._taken :]
        self._taken = len(self._text)
        return fresh
