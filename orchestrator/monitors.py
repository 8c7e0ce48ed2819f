"""Monitors watch one sample token by token while it is generated, and may cut it.

A monitor is a frozen value that travels with the request; `Monitor.watch` makes the state for one sample. Engines
ask the watcher after every token, so the cut falls exactly there.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol


class Watcher(Protocol):
    """State of one monitor for one sample."""

    def sees(self, text: str, token: int | str, top_logprobs: Sequence[float]) -> bool:
        """Takes one more token; True cuts the sample after it.

        Args:
            text: The sample's whole text so far.
            token: The token's id (or text, from servers that give no ids).
            top_logprobs: Natural log probabilities of the likeliest tokens at its position, as many as the
                monitor's `Monitor.num_logprobs`.
        """
        ...


class Monitor(Protocol):
    """A rule that may end a sample early."""

    name: ClassVar[str]

    @property
    def num_logprobs(self) -> int:
        """How many top log probabilities it needs per token; 0 for none."""
        ...

    def watch(self) -> Watcher:
        """Fresh state for one sample."""
        ...


@dataclass(frozen=True, slots=True)
class Repetition:
    """Cuts a sample that repeats itself: its last tokens are one short pattern, several times over.

    Attributes:
        max_period: Longest pattern looked for, in tokens.
        min_tokens: The repetition must cover at least this many tokens.
        min_repeats: And hold the pattern at least this many times.
    """

    name: ClassVar[str] = "repetition"
    max_period: int = 48
    min_tokens: int = 96
    min_repeats: int = 4

    @property
    def num_logprobs(self) -> int:
        return 0

    def watch(self) -> Watcher:
        return _RepetitionWatcher(self)


class _RepetitionWatcher:
    """Counts, for each period, how many tokens in a row equal the token one period earlier: O(periods) a token."""

    def __init__(self, rule: Repetition) -> None:
        self._rule = rule
        self._recent: deque[int | str] = deque(maxlen=rule.max_period)
        self._matched = [0] * (rule.max_period + 1)

    def sees(self, text: str, token: int | str, top_logprobs: Sequence[float]) -> bool:
        is_cut = False
        recent, matched, rule = self._recent, self._matched, self._rule
        for period in range(1, len(recent) + 1):
            if recent[-period] == token:
                matched[period] += 1
                covered = matched[period] + period
                is_cut |= covered >= max(rule.min_tokens, rule.min_repeats * period)
            else:
                matched[period] = 0
        recent.append(token)
        return is_cut


@dataclass(frozen=True, slots=True)
class AnswerComplete:
    r"""Cuts a sample once its final answer stands: a closed ``\boxed{...}``, or a given pattern.

    Attributes:
        pattern: A regular expression searched in the last 400 characters; empty for the boxed answer.
    """

    name: ClassVar[str] = "answer_complete"
    pattern: str = ""

    @property
    def num_logprobs(self) -> int:
        return 0

    def watch(self) -> Watcher:
        return _AnswerWatcher(re.compile(self.pattern) if self.pattern else None)


class _AnswerWatcher:
    _WINDOW_CHARS = 400

    def __init__(self, pattern: re.Pattern[str] | None) -> None:
        self._pattern = pattern

    def sees(self, text: str, token: int | str, top_logprobs: Sequence[float]) -> bool:
        tail = text[-self._WINDOW_CHARS :]
        if self._pattern is not None:
            return self._pattern.search(tail) is not None
        start = tail.rfind("\\boxed{")
        return start >= 0 and _closes(tail, start + len("\\boxed{"))


def _closes(text: str, start: int) -> bool:
    depth = 1
    for character in text[start:]:
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return True
    return False


@dataclass(frozen=True, slots=True)
class ConfidenceFloor:
    """Cuts a sample whose group confidence falls below a floor (DeepConf, Fu et al., 2025, arXiv:2508.15260).

    Token confidence is minus the mean log probability of the `top_k` likeliest tokens (higher is more peaked); group
    confidence is its mean over the last `window` tokens. Only full windows are compared.

    Attributes:
        floor: Least group confidence allowed, in nats.
        window: Tokens in a group.
        top_k: Likeliest tokens that make up a token's confidence.
    """

    name: ClassVar[str] = "confidence_floor"
    floor: float
    window: int = 2048
    top_k: int = 20

    @property
    def num_logprobs(self) -> int:
        return self.top_k

    def watch(self) -> Watcher:
        return _ConfidenceWatcher(self)


class _ConfidenceWatcher:
    def __init__(self, rule: ConfidenceFloor) -> None:
        self._rule = rule
        self._group: deque[float] = deque()
        self._sum = 0.0

    def sees(self, text: str, token: int | str, top_logprobs: Sequence[float]) -> bool:
        considered = top_logprobs[: self._rule.top_k]
        if not considered:
            return False
        confidence = -sum(considered) / len(considered)
        self._group.append(confidence)
        self._sum += confidence
        if len(self._group) > self._rule.window:
            self._sum -= self._group.popleft()
        return len(self._group) == self._rule.window and self._sum / self._rule.window < self._rule.floor
