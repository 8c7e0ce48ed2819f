"""What the tokens of a model are: their bytes, which of them are special, and texts as ids, without vLLM.

Everything is read from the ``tokenizer.json`` of a Hugging Face tokenizer, so that text is decoded byte by byte like
everywhere else here (`orchestrator.stopping`), and so that no text of a user can become a special token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.errors import ModelUnavailable
from orchestrator.workers.vocabulary import BaseVocabulary

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")

Json = Mapping[str, Any]  # Any: JSON values


class Vocabulary(BaseVocabulary):
    """Texts, ids and roles of a model's tokens.

    Args:
        tokenizer_json: As a fast tokenizer of Hugging Face writes itself.
        model: Whose; for errors.
        end_ids: Tokens that end a turn.

    Raises:
        ModelUnavailable: The kind of tokenizer is not known.
    """

    def __init__(self, tokenizer_json: str, *, model: str, end_ids: Iterable[int]) -> None:
        from tokenizers import Tokenizer

        data = json.loads(tokenizer_json)
        self._pieces = token_bytes(data, model=model)
        self.size = len(self._pieces)
        self.end_ids = frozenset(end_ids)
        self.special_texts = tuple(token["content"] for token in data["added_tokens"] if token["special"])
        self.special_ids = frozenset(token["id"] for token in data["added_tokens"] if token["special"])
        self.fingerprint = _fingerprint(self._pieces, self.special_ids)
        self._whole = Tokenizer.from_str(json.dumps(_bare(data)))
        self._plain = Tokenizer.from_str(json.dumps(_bare(data, keeps_start=False)))
        self._plain.encode_special_tokens = True

    def piece(self, token: int) -> bytes:
        """Bytes a token adds to a text; none for special tokens and for ids that stand for nothing."""
        return self._pieces[token] if token < self.size else b""

    def encode(self, text: str, *, parses_special: bool = False) -> list[int]:
        """Ids of a text; texts of special tokens in it are plain text unless ``parses_special``.

        A text that parses special tokens is the beginning of a document: tokenizers that put a space before it do.
        """
        tokenizer = self._whole if parses_special else self._plain
        ids: list[int] = tokenizer.encode(without_surrogates(text), add_special_tokens=False).ids
        return ids

    def only_id(self, text: str) -> int | None:
        """The one token that is ``text``, special or not; None if it takes several."""
        ids = self.encode(text, parses_special=text in self.special_texts)
        return ids[0] if len(ids) == 1 else None


def token_bytes(data: Json, *, model: str) -> list[bytes]:
    """The bytes of each token, by id, from a tokenizer.json; special tokens have none.

    Raises:
        ModelUnavailable: Its tokens are neither byte-level nor pieces of text with bytes to fall back on.
    """
    texts = dict(_texts(data))
    kinds = {part["type"] for part in _parts(data.get("decoder"))}
    added = {token["id"]: (b"" if token["special"] else token["content"].encode()) for token in data["added_tokens"]}
    if "ByteLevel" in kinds:
        letters = _byte_of_letter()
        known = {index: _byte_level(text, letters) for index, text in texts.items()}
    elif kinds & {"ByteFallback", "Metaspace"}:
        known = {index: _piece_of_text(text) for index, text in texts.items()}
    else:
        shown = ", ".join(sorted(kinds)) or "none"
        raise ModelUnavailable(
            f"model {model!r}: its tokenizer's decoder ({shown}) is neither byte-level nor one of text pieces",
            name=model,
        )
    known |= added
    return [known.get(index, b"") for index in range(max(known, default=-1) + 1)]


def _texts(data: Json) -> Iterator[tuple[int, str]]:
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, Mapping):
        yield from ((index, text) for text, index in vocabulary.items())
    else:  # Unigram: pairs of a text and its score
        yield from ((index, text) for index, (text, _) in enumerate(vocabulary))


def _parts(decoder: Json | None) -> Iterator[Json]:
    if decoder is None:
        return
    yield decoder
    for part in decoder.get("decoders", ()):
        yield from _parts(part)


def _byte_level(text: str, letters: Mapping[str, int]) -> bytes:
    if all(letter in letters for letter in text):
        return bytes(letters[letter] for letter in text)
    return text.encode()


def _piece_of_text(text: str) -> bytes:
    if byte := _BYTE.match(text):
        return bytes([int(byte[1], 16)])
    return text.replace(_SPACE, " ").encode()


def _byte_of_letter() -> dict[str, int]:
    """The alphabet of byte-level tokenizers: a printable letter for each byte (Radford et al., 2019)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _bare(data: Json, *, keeps_start: bool = True) -> dict[str, Any]:  # Any: JSON values
    """The tokenizer without what truncates, pads and adds tokens; and, if wanted, what puts a space at the start."""
    bare = {**data, "truncation": None, "padding": None, "post_processor": None}
    if not keeps_start:
        for key in ("normalizer", "pre_tokenizer"):
            bare[key] = _without_start(bare.get(key))
    return bare


def _without_start(part: Any) -> Any:  # Any: JSON values
    if not isinstance(part, Mapping):
        return part
    if part.get("type") == "Prepend":
        return None
    changed = dict(part)
    if part.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
        changed.pop("add_prefix_space", None)
    elif "add_prefix_space" in part:
        changed["add_prefix_space"] = False
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            changed[key] = [kept for item in part[key] if (kept := _without_start(item)) is not None]
    return changed


def _fingerprint(pieces: Sequence[bytes], special: frozenset[int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for index, piece in enumerate(pieces):
        digest.update(b"%d:%d:%b\n" % (index in special, len(piece), piece))
    return digest.hexdigest()


def without_surrogates(text: str) -> str:
    """The text with question marks for lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode() if any("\ud800" <= letter <= "\udfff" for letter in text) else text
