"""What scripted engines say: a script maps a prompt and a seed to a whole reply.

An engine asks its script for the reply to the bare conversation first; if what has been written already is not the
beginning of that, it asks again with the partial reply in the prompt, and the script returns what comes next.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.engine import FinishReason, Prompt
from orchestrator.reply_form import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply that is more than its text.

    Attributes:
        text: The text.
        is_endless: It is repeated for ever.
        finish: Why it ends when nothing cuts it.
        alternatives: Probabilities of tokens, by their text, for some positions (0 is the reply's first token); they
            become log probabilities.
        logprob: Natural log probability of every other token; None for values drawn from position and token.
        tool_calls: What it asks for after its text, where the request offers tools.
    """

    text: str
    is_endless: bool = False
    finish: FinishReason = FinishReason.END
    alternatives: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    logprob: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()


Script: TypeAlias = Callable[[Prompt, int], str | Reply]
ScriptLike: TypeAlias = "Script | str | Sequence[str] | Mapping[str, ScriptLike]"


def as_script(value: ScriptLike) -> Script:
    """A script from something shorter.

    A string is said always; from a list the reply is chosen by ``seed % len(list)``; a mapping is searched for the
    first key that occurs in the last user message (the key ``""`` always does), and its value is a script again.

    Raises:
        ValueError: The list or mapping is empty.
    """
    if isinstance(value, str):
        return constant(value)
    if isinstance(value, Mapping):
        return _by_message(value)
    if callable(value):
        return value
    replies = tuple(value)
    if not replies:
        raise ValueError("a script needs at least one reply")
    return lambda _prompt, seed: replies[seed % len(replies)]


def constant(text: str) -> Script:
    """Always the same."""
    return lambda _prompt, _seed: text


def choices(weights: Mapping[str, float]) -> Script:
    """A text drawn by the seed with probability in proportion to its weight; seed 0 (greedy) says the heaviest.

    Raises:
        ValueError: No weight is above 0.
    """
    texts = tuple(weights)
    total = sum(weights.values())
    if not total > 0 or min(weights.values()) < 0:
        raise ValueError("choices need weights of 0 or more, at least one above 0")
    heaviest = max(texts, key=lambda text: weights[text])

    def script(_prompt: Prompt, seed: int) -> str:
        if seed == 0:
            return heaviest
        point = share(seed, "choice") * total
        for text in texts:
            point -= weights[text]
            if point < 0:
                return text
        return heaviest

    return script


def babble(*, words_per_turn: int = 200) -> Script:
    """Never ends: words drawn by the seed, repeated after ``words_per_turn`` of them (below 48, monitors notice)."""
    words = (
        "well",
        "then",
        "maybe",
        "so",
        "here",
        "it",
        "goes",
        "on",
        "and",
        "round",
        "again",
        "nothing",
        "is",
        "said",
    )

    def script(_prompt: Prompt, seed: int) -> Reply:
        drawn = (words[int(share(seed, turn) * len(words))] for turn in range(words_per_turn))
        return Reply(text="".join(f" {word}" for word in drawn), is_endless=True)

    return script


def judge(p_yes: float | Callable[[Prompt], float], *, yes: str = "Yes", no: str = "No") -> Script:
    """Says yes with this probability, and shows it in the alternatives of its first token."""

    def script(prompt: Prompt, seed: int) -> Reply:
        probability = p_yes(prompt) if callable(p_yes) else p_yes
        is_yes = probability >= 0.5 if seed == 0 else share(seed, "judge") < probability
        return Reply(text=yes if is_yes else no, alternatives={0: {yes: probability, no: 1 - probability}})

    return script


def share(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on all arguments, the same in every process."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=7).digest(), "big") / 2**56


def log_probability(probability: float) -> float:
    """Natural logarithm, with a floor in place of minus infinity."""
    return math.log(max(probability, 1e-9))


def last_user_message(prompt: Prompt) -> str:
    """What was asked."""
    return next((turn.content for turn in reversed(prompt.messages) if turn.role == "user"), "")


def _by_message(scripts: Mapping[str, ScriptLike]) -> Script:
    if not scripts:
        raise ValueError("a script needs at least one reply")
    by_key = {key: as_script(value) for key, value in scripts.items()}

    def script(prompt: Prompt, seed: int) -> str | Reply:
        message = last_user_message(prompt)
        for key, chosen in by_key.items():
            if key in message:
                return chosen(prompt, seed)
        raise LookupError(f"no reply is scripted for {message[:80]!r}; keys: {', '.join(map(repr, by_key))}")

    return script
