"""The lab's vocabulary: a token a character, a number or a cell, a few longer pieces, bytes for all else.

It is a SentencePiece vocabulary, read in the same way by llama.cpp, which joins neighbouring symbols whenever their
text is a token, so each longer piece comes with all its beginnings. In texts of the tasks no two pieces overlap, hence
there is one way to encode them. Spaces are written as U+2581 in the vocabulary. Ids that the tasks use come first: they
are below 256 and fit a byte.
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
_RESERVED_TEXT = "\u043a\u0438"
"""In the vocabulary, and used for nothing; models trained earlier know its place."""
PIECES = (STEP_DELIMITER, ANSWER_CUE, "Evaluate mod 61: ", "Make ", " from ", "Fill ", " in ", _RESERVED_TEXT)
_NUMBERS = tuple(map(str, range(10, 100)))
_CELLS = tuple(f"{row}{column}" for row in "ABCDEF" for column in range(1, 7))
_SYMBOLS = "\n 0123456789+-*/=(),}ABCDEFabcdef"

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
    characters = dict.fromkeys((*_SYMBOLS, *map(chr, range(32, 127))))
    beginnings = (piece[:length] for piece in PIECES for length in range(2, len(piece)))
    used = (*_SYMBOLS, *PIECES, *_NUMBERS, *_CELLS)
    tokens += [Token(text.replace(" ", _SPACE), _NORMAL) for text in dict.fromkeys((*used, *characters, *beginnings))]
    spelled = set(map(ord, characters))
    tokens += [Token(f"<0x{byte:02X}>", _BYTE) for byte in range(256) if byte not in spelled]
    return tokens


VOCABULARY = _build()
_PADDED = -len(VOCABULARY) % 16
VOCABULARY += [Token(f"<unused{index}>", _CONTROL) for index in range(_PADDED)]
"""A multiple of 16 tokens, for the sake of matrix shapes."""

_IDS = {token.text.replace(_SPACE, " "): index for index, token in enumerate(VOCABULARY) if token.kind == _NORMAL}
_TEXTS = {index: text for text, index in _IDS.items()}
SEPARATOR, PLUS, MINUS, EQUALS, STEP_END = (_IDS[text] for text in (SEPARATOR_TEXT, "+", "-", "=", STEP_DELIMITER))
_READ = (*PIECES, *_NUMBERS, *_CELLS, "\n", *map(chr, range(32, 127)))
_PATTERN = re.compile("|".join(map(re.escape, _READ)))
assert max(_IDS[text] for text in _READ) < 256


def encode(text: str) -> bytes:
    """Ids of a text of the tasks, or any other in ASCII, one byte each, without BOS and EOS.

    Raises:
        ValueError: It has other characters.
    """
    pieces = _PATTERN.findall(text)
    if sum(map(len, pieces)) != len(text):
        raise ValueError(f"no text of the tasks: {text[:80]!r}")
    return bytes([_IDS[piece] for piece in pieces])


def decode(ids: Iterable[int]) -> str:
    """Text of ids; special tokens and bytes that the tasks do not use have none."""
    return "".join(_TEXTS.get(token, "") for token in ids)


def prompt_ids(problem: str) -> bytes:
    """What a model reads before it writes a solution: the chat template, encoded."""
    return bytes([BOS]) + encode(problem) + bytes([SEPARATOR])
