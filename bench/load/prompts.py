"""What requests ask: problems from a file, or words of about the wanted length; shared blocks give shared prefixes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.traces import BLOCK_TOKENS

_INSTRUCTION = "\n\nGo on with this list of words, and do not stop."
_INSTRUCTION_TOKENS = 14  # of SmolLM2 and of Qwen2.5
_CACHED_BLOCKS = 8192  # of about 2.5 kB

# Each of them, with the space before it, is one token of SmolLM2 and of Qwen2.5.
_TEXT = """
the of and to in is it for on with as at by from this that not are was be have has had will can may one two three four
five six seven eight nine ten time year day week month hour work life world house home school country city state water
food land sea river mountain tree stone fire light air earth night morning summer winter spring road street line point
place number group part word page book story letter name song music art science history law money market price company
service system power energy machine engine wheel bridge door window table chair paper glass metal wood green blue red
white black long short high low large small new old young early late fast slow hot cold hard soft open close read write
speak listen walk run move stop begin end build make take give find keep hold turn change grow learn teach think know
see hear feel
"""
_WORDS = _TEXT.split()
_PHRASE_WORDS = 8
_NUM_PHRASES = 4096


class Prompts(Protocol):
    """Texts for requests."""

    def text(self, index: int, arrival: Arrival) -> str:
        """The prompt of request number ``index``; the same for the same arguments."""
        ...


class SyntheticPrompts:
    """Random words: a word is about a token, so that prompts have about the wanted length, and no two begin alike
    unless the trace says that they share blocks. Drawn in phrases: a prompt of 100,000 words takes milliseconds.

    Args:
        seed: All words derive from it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._block = lru_cache(_CACHED_BLOCKS)(self._new_block)
        rng = random.Random(f"{seed}/phrases")
        self._phrases = [
            "".join(f" {word}" for word in rng.choices(_WORDS, k=_PHRASE_WORDS)) for _ in range(_NUM_PHRASES)
        ]

    def text(self, index: int, arrival: Arrival) -> str:
        """Words, and at the end the instruction to go on with them."""
        num_words = max(1, arrival.input_tokens - _INSTRUCTION_TOKENS)
        num_whole = min(len(arrival.blocks), num_words // BLOCK_TOKENS)
        parts = [self._block(block) for block in arrival.blocks[:num_whole]]
        rest = num_words - num_whole * BLOCK_TOKENS
        return "".join(parts) + self._words(f"request {index}", rest) + _INSTRUCTION

    def _new_block(self, block: int) -> str:
        return self._words(f"block {block}", BLOCK_TOKENS)

    def _words(self, name: str, count: int) -> str:
        num_whole, rest = divmod(count, _PHRASE_WORDS)
        *whole, last = random.Random(f"{self._seed}/{name}").choices(self._phrases, k=num_whole + 1)
        return "".join(whole) + "".join(f" {word}" for word in last.split()[:rest])


class ProblemPrompts:
    """Problems in an order drawn by the seed, from the start again when all have been asked.

    Args:
        problems: At least one text.
        seed: Draws the order.
    """

    def __init__(self, problems: Sequence[str], seed: int) -> None:
        self._problems = random.Random(f"{seed}/problems").sample(problems, len(problems))

    def text(self, index: int, arrival: Arrival) -> str:  # noqa: ARG002  # problems are as long as they are
        """The problem."""
        return self._problems[index % len(self._problems)]


def read_problem_texts(path: Path) -> list[str]:
    """The texts of a JSON Lines file, from the field problem, question, prompt or input of each line.

    Raises:
        InvalidRequest: The file cannot be read, or a line cannot be used; names file and line.
    """
    from orchestrator.api.terminal.problems import read_problems

    texts: list[str] = []
    for problem in read_problems(str(path)):
        if problem.error is not None:
            raise problem.error
        if problem.text is not None:
            texts.append(problem.text)
    return texts
