"""Calls about the vocabulary, which block: the protocol `Tokenizes` has no room for waiting.

They go over a socket of their own and take a fraction of a millisecond; what is likely to be asked again is kept. A
host that is away or too slow is not waited for.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from orchestrator.engine import Prompt, Span
from orchestrator.errors import EngineFailed
from orchestrator.workers.hosted.codec import decode
from orchestrator.workers.hosted.frames import Frame, FrameReader, packed
from orchestrator.workers.hosted.protocol import METHODS, call_message, error_of

_KEPT = 4096
_KEPT_CHARS = 1 << 23
_READ_BYTES = 1 << 18
_BOUND_PER_MESSAGE = 16


class VocabularyChannel:
    """Asks one host.

    Args:
        channel: Our end of the socket.
        model: The model's name, for errors.
        patience_s: How long a call may take.
    """

    def __init__(self, channel: socket.socket, *, model: str, patience_s: float) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._model = model
        self._patience_s = patience_s
        self._reader = FrameReader()
        self._number = 0
        self._turn = threading.Lock()  # invariant: one call is on its way
        self._is_slow = False

    def trust_again(self) -> None:
        """The host has answered something else: it is alive."""
        self._is_slow = False

    def ask(self, name: str, argument: object) -> Any:  # Any: what the method returns
        """What the host answers.

        Raises:
            EngineFailed: The host is gone, or too slow now or a moment ago.
            TtcError: What the method raised.
        """
        if self._is_slow:
            raise EngineFailed(f"the host of model {self._model!r} does not answer", model=self._model)
        with self._turn:
            self._number += 1
            try:
                frame = self._exchange(packed(call_message(self._number, name, (argument,), {}, [])))
            except TimeoutError as error:
                self._is_slow = True
                raise EngineFailed(
                    f"the host of model {self._model!r} has not answered within {self._patience_s:g} s",
                    model=self._model,
                ) from error
            except (OSError, ValueError) as error:  # a socket that is closed is no descriptor
                raise EngineFailed(f"the host of model {self._model!r} is gone", model=self._model) from error
        kind, _, value = frame.message
        if kind == "error":
            raise error_of(value)
        return decode(METHODS[name].result, value, frame.blobs)

    def _exchange(self, request: bytes) -> Frame:
        unsent = memoryview(request)
        deadline = time.monotonic() + self._patience_s
        waiting = select.poll()  # select.select knows no descriptors above 1023
        while True:
            waiting.register(self._channel, select.POLLIN | (select.POLLOUT if unsent else 0))
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            for _, ready in waiting.poll(1000 * remaining_s):
                if ready & select.POLLOUT and unsent:
                    unsent = unsent[self._channel.send(unsent) :]
                if ready & (select.POLLIN | select.POLLHUP) and (frame := self._receive()) is not None:
                    return frame

    def _receive(self) -> Frame | None:
        data = self._channel.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError
        for frame in self._reader.feed(data):
            if frame.message[1] == self._number:  # else the answer to a call that was given up
                return frame
        return None


class Remembered:
    """The answers that were last asked for, within bounds; what each takes is counted in characters or tokens."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._chars = 0

    def get(self, key: Hashable) -> Any:  # Any: an answer, or None
        """The answer, if it is still there."""
        found = self._answers.get(key)
        if found is None:
            return None
        self._answers.move_to_end(key)
        return found[0]

    def keep(self, key: Hashable, answer: object, size: int) -> None:
        """Keeps an answer."""
        if size > _KEPT_CHARS // 8 or key in self._answers:
            return
        self._answers[key] = (answer, size)
        self._chars += size
        while len(self._answers) > _KEPT or self._chars > _KEPT_CHARS:
            _, (_, dropped) = self._answers.popitem(last=False)
            self._chars -= dropped


def prompt_size(prompt: Prompt) -> int:
    """Characters of a prompt."""
    return sum(len(turn.content) for turn in prompt.messages) + sum(len(span.text) for span in prompt.continuation)


def split_prompt(prompt: Prompt, tokenizer: str | None) -> tuple[Prompt, int]:
    """A prompt without the spans at its end whose ids are known, and how many ids those have."""
    spans = list(prompt.continuation)
    num_known = 0
    while spans and _has_ids(spans[-1], tokenizer):
        num_known += len(spans.pop().token_ids or ())
    return Prompt(prompt.messages, tuple(spans)), num_known


def upper_bound(prompt: Prompt, *, empty_prompt_tokens: int) -> int:
    """At least as many tokens as the model reads for a prompt: a token is at least one byte."""
    texts = [turn.content for turn in prompt.messages] + [span.text for span in prompt.continuation]
    num_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return empty_prompt_tokens + num_bytes + _BOUND_PER_MESSAGE * len(prompt.messages)


def _has_ids(span: Span, tokenizer: str | None) -> bool:
    return span.token_ids is not None and tokenizer is not None and span.tokenizer == tokenizer
