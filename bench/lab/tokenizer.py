"""The lab's vocabulary: one token a character, a few longer pieces, bytes for all else; the same in llama.cpp.

It is a SentencePiece vocabulary. llama.cpp joins neighbouring symbols whenever their text is a token, so each longer
piece comes with all its beginnings; nothing else can be joined, hence there is one way to encode any text. Spaces are
written as U+2581 in the vocabulary. Ids that the tasks use are below 256 and fit a byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.bench.tasks.task import ANSWER_CUE, STEP_DELIMITER

UNKNOWN, BOS, EOS = 0, 1, 2
PAD = UNKNOWN
"""Never trained on and never sampled."""
SEPARATOR_TEXT = "\n"
"""Between the problem and the solution; a problem holds none."""
TAG_TEXT = "\u043a\u0438"
"""Where the process reward model says "+" or "-" of the step before (the tag of Math-Shepherd)."""
PIECES = (STEP_DELIMITER, ANSWER_CUE, "Evaluate ", " mod 31", "Make ", " from ", "Fill ", TAG_TEXT)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role != 'system' %}{{ message.content }}"
    "{% if message.role == 'user' %}{{ '\\n' }}{% else %}{{ eos_token }}{{ bos_token }}{% endif %}"
    "{% endif %}{% endfor %}"
)
"""System messages are left out: these models know their tasks and nothing else."""

_SPACE = "\u2581"


class Token(NamedTuple):
    """An entry of the vocabulary; kinds are GGUF's token types."""

    text: str
    kind: int


_NORMAL, _UNKNOWN_KIND, _CONTROL, _BYTE = 1, 2, 3, 6


def _build() -> list[Token]:
    tokens = [Token("<unk>", _UNKNOWN_KIND), Token("<s>", _CONTROL), Token("</s>", _CONTROL)]
    characters = ["\n", *map(chr, range(32, 127))]
    beginnings = dict.fromkeys(piece[:length] for piece in PIECES for length in range(2, len(piece) + 1))
    tokens += [Token(text.replace(" ", _SPACE), _NORMAL) for text in (*characters, *beginnings)]
    spelled = {ord(char) for char in characters}
    tokens += [Token(f"<0x{byte:02X}>", _BYTE) for byte in range(256) if byte not in spelled]
    return tokens


VOCABULARY = _build()
_PADDED = -len(VOCABULARY) % 16
VOCABULARY += [Token(f"<unused{index}>", _CONTROL) for index in range(_PADDED)]
"""A multiple of 16 tokens, for the sake of matrix shapes."""

_IDS = {token.text.replace(_SPACE, " "): index for index, token in enumerate(VOCABULARY) if token.kind == _NORMAL}
_TEXTS = {index: text for text, index in _IDS.items()}
SEPARATOR, TAG, PLUS, MINUS, STEP_END = (_IDS[text] for text in (SEPARATOR_TEXT, TAG_TEXT, "+", "-", STEP_DELIMITER))
_MARKS = {piece: chr(0xE000 + index) for index, piece in enumerate(PIECES)}
_TABLE = {ord(text): chr(index) for text, index in _IDS.items() if len(text) == 1} | {
    ord(mark): chr(_IDS[piece]) for piece, mark in _MARKS.items()
}
_FOREIGN = re.compile(f"[^{re.escape(''.join(map(chr, _TABLE)))}]")
assert max(map(ord, _TABLE.values())) < 256


def encode(text: str) -> bytes:
    """Ids of a text of the tasks, one byte each, without BOS and EOS.

    Raises:
        ValueError: It has characters that the tasks do not use.
    """
    for piece, mark in _MARKS.items():
        text = text.replace(piece, mark)
    if _FOREIGN.search(text):
        raise ValueError(f"no text of the tasks: {text[:80]!r}")
    return text.translate(_TABLE).encode("latin-1")


def decode(ids: Iterable[int]) -> str:
    """Text of ids; special tokens and bytes that the tasks do not use have none."""
    return "".join(_TEXTS.get(token, "") for token in ids)


def prompt_ids(problem: str) -> bytes:
    """What a model reads before it writes a solution: the chat template, encoded."""
    return bytes([BOS]) + encode(problem) + bytes([SEPARATOR])
