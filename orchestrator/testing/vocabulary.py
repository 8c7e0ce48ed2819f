"""Vocabularies of scripted engines: text to token ids and back, the same in every process, with nothing to load.

A token's id spells its bytes out, so ids from a journal mean the same to an engine opened later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

_CACHED_CHARS = 20_000
"""Longer texts are not kept in the cache."""


class Vocabulary(Protocol):
    """Encodes and decodes; `detokenize(tokenize(text)) == text` for all text without lone surrogates."""

    @property
    def fingerprint(self) -> str:
        """Names the vocabulary; equal fingerprints mean equal ids."""
        ...

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of ``text``."""
        ...

    def tokenize_bytes(self, data: bytes) -> tuple[int, ...]:
        """Ids of bytes that need not be valid UTF-8."""
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token; empty for an id that is none."""
        ...

    def others(self, token_id: int, num_tokens: int) -> tuple[int, ...]:
        """Up to ``num_tokens`` tokens that are not ``token_id``."""
        ...


def text_of(vocabulary: Vocabulary, token_ids: Sequence[int]) -> str:
    """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
    return b"".join(map(vocabulary.piece, token_ids)).decode("utf-8", "replace")


_PIECES = re.compile(
    r" ?[A-Z]{2,5}(?![A-Za-z])"  # abbreviations
    r"| ?[A-Za-z][a-z]{0,9}"  # words of up to ten letters; longer ones take several tokens
    r"| ?[0-9]{1,5}"
    r"| ?[^\sA-Za-z0-9]{1,5}"  # runs of punctuation, and everything that is not ASCII
    r"|\s{1,6}"
)
_WORD = re.compile(r"( ?)([A-Za-z])([a-z]*)\Z")
_RAW_BYTES = 6
_FIRST_WORD_ID = 1 << 50
"""Ids below are a one followed by up to six bytes; ids from here on are words, letters in base 27 above two flags.
All are below 2**53, so they survive JSON readers that know only doubles."""


class WordVocabulary:
    """A token is a word or number with the space before it, a run of punctuation, or up to six other bytes."""

    fingerprint = "scripted-words-1"

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of ``text``; lone surrogates become ``?``."""
        return _word_ids(text) if len(text) <= _CACHED_CHARS else tuple(_each_word_id(text))

    def tokenize_bytes(self, data: bytes) -> tuple[int, ...]:
        """Ids of bytes that need not be valid UTF-8."""
        try:
            return self.tokenize(data.decode())
        except UnicodeDecodeError:
            return tuple(_raw_id(data[start : start + _RAW_BYTES]) for start in range(0, len(data), _RAW_BYTES))

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token; empty for an id that is none."""
        return _word_piece(token_id)

    def others(self, token_id: int, num_tokens: int) -> tuple[int, ...]:
        """Two-letter words."""
        return tuple(word for word in _short_words()[: num_tokens + 1] if word != token_id)[:num_tokens]


class ByteVocabulary:
    """A token is a byte; small enough for full logits. Id 256 ends a turn."""

    fingerprint = "scripted-bytes-1"
    size = 257
    end_id = 256

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of ``text``; lone surrogates become ``?``."""
        return tuple(text.encode("utf-8", "replace"))

    def tokenize_bytes(self, data: bytes) -> tuple[int, ...]:
        """Ids of bytes that need not be valid UTF-8."""
        return tuple(data)

    def piece(self, token_id: int) -> bytes:
        """The byte; empty for the end of a turn and for an id that is no token."""
        return bytes((token_id,)) if 0 <= token_id < 256 else b""

    def others(self, token_id: int, num_tokens: int) -> tuple[int, ...]:
        """Lower-case letters first."""
        order = [*range(97, 123), *range(32, 97), *range(123, 127), *range(32), *range(127, 256)]
        return tuple(byte for byte in order[: num_tokens + 1] if byte != token_id)[:num_tokens]


def _each_word_id(text: str) -> Iterator[int]:
    for piece in _PIECES.findall(text):
        word = _WORD.match(piece)
        if word is not None:
            yield _word_id(word[1], word[2], word[3])
            continue
        data = piece.encode("utf-8", "replace")
        for start in range(0, len(data), _RAW_BYTES):
            yield _raw_id(data[start : start + _RAW_BYTES])


@lru_cache(maxsize=4096)
def _word_ids(text: str) -> tuple[int, ...]:
    return tuple(_each_word_id(text))


@lru_cache(maxsize=65536)
def _word_id(space: str, first: str, rest: str) -> int:
    number = 0
    for letter in first.lower() + rest:
        number = number * 27 + ord(letter) - 96
    return _FIRST_WORD_ID + number * 4 + 2 * first.isupper() + bool(space)


def _raw_id(data: bytes) -> int:
    return int.from_bytes(b"\x01" + data, "big")


@lru_cache(maxsize=65536)
def _word_piece(token_id: int) -> bytes:
    if token_id < 256:
        return b""
    if token_id < _FIRST_WORD_ID:
        data = token_id.to_bytes(8, "big").lstrip(b"\0")
        return data[1:] if data[0] == 1 else b""
    number, flags = divmod(token_id - _FIRST_WORD_ID, 4)
    letters = bytearray()
    while number:
        number, digit = divmod(number, 27)
        letters.append(digit + 96)
    letters.reverse()
    word = bytes(letters[:1]).upper() + bytes(letters[1:]) if flags & 2 else bytes(letters)
    return b" " + word if flags & 1 else word


@lru_cache(maxsize=1)
def _short_words() -> tuple[int, ...]:
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    return tuple(_word_id(" ", first, second) for first in letters for second in letters)
