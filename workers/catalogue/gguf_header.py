"""What the header of a GGUF file says of its model: shape, parameters, vocabulary. Reads nothing of the weights."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.cost import ModelCost
from orchestrator.errors import ModelUnavailable

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_ENTRIES = 1 << 20
_MAX_TEXT_BYTES = 1 << 26
_MAX_ITEMS = 1 << 24
_MAX_DEPTH = 4
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """The model of a GGUF file.

    Attributes:
        architecture: For instance ``qwen2``.
        parameters: Numbers in all tensors.
        file_bytes: Length of the file, which is about what the weights take in memory.
        cost: Shape for the cost models, without prices; the cache has 16-bit elements.
        context_length: Tokens it was trained to read; 0 if it does not say.
        vocabulary: Fingerprint of the tokens; equal ones mean equal ids. Empty if the file has none.
        num_tokens: How many tokens there are.
        rewards_steps: Whether it is a process reward model of the step-tag form, which judges and does not write.
    """

    architecture: str
    parameters: int
    file_bytes: int
    cost: ModelCost
    context_length: int
    vocabulary: str
    num_tokens: int
    rewards_steps: bool


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a file.

    Raises:
        ModelUnavailable: It cannot be read, or is no GGUF file.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file).header(file_bytes=path.stat().st_size)
    except OSError as error:
        raise ModelUnavailable(f"model file {str(path)!r} cannot be read: {error.strerror}", path=str(path)) from None
    except (struct.error, ValueError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise ModelUnavailable(f"{str(path)!r} is no GGUF file, or damaged: {error}", path=str(path)) from None


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._tokens = hashlib.sha256()
        self._num_tokens = 0

    def header(self, *, file_bytes: int) -> GgufHeader:
        if self._file.read(4) != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version, num_tensors, num_entries = self._unpack("IQQ")
        if version not in _VERSIONS:
            raise ValueError(f"version {version} is not known")
        if max(num_tensors, num_entries) > _MAX_ENTRIES:
            raise ValueError("it claims too many entries")
        values = dict(self._entry() for _ in range(num_entries))
        parameters = sum(self._tensor() for _ in range(num_tensors))
        name = str(values.get("general.architecture", ""))

        def number(key: str) -> int:
            value = values.get(f"{name}.{key}", 0)
            return int(value) if isinstance(value, int | float) else 0

        return GgufHeader(
            architecture=name,
            parameters=parameters,
            file_bytes=file_bytes,
            cost=_cost(values, name, parameters=parameters, number=number),
            context_length=number("context_length"),
            vocabulary=self._tokens.hexdigest() if self._num_tokens else "",
            num_tokens=self._num_tokens,
            rewards_steps="ttc.step_tag" in values,
        )

    def _unpack(self, form: str) -> tuple[Any, ...]:  # Any: numbers
        packed = struct.Struct(f"<{form}")
        return packed.unpack(self._file.read(packed.size))

    def _bytes(self) -> bytes:
        (length,) = self._unpack("Q")
        if length > _MAX_TEXT_BYTES:
            raise ValueError("a text in its header is too long")
        text = self._file.read(length)
        if len(text) < length:
            raise ValueError("it ends in its header")
        return text

    def _entry(self) -> tuple[str, object]:
        key = self._bytes().decode("utf-8")
        (kind,) = self._unpack("I")
        return key, self._value(kind, key=key)

    def _value(self, kind: int, *, key: str, depth: int = 0) -> object:
        if kind == _STRING:
            return self._bytes().decode("utf-8", "replace")
        if kind != _ARRAY:
            if kind not in _FORMATS:
                raise ValueError(f"a value in its header has the unknown type {kind}")
            return self._unpack(_FORMATS[kind])[0]
        item, length = self._unpack("IQ")
        if length > _MAX_ITEMS or depth >= _MAX_DEPTH:
            raise ValueError("an array in its header is too large")
        if item in _FORMATS:
            return list(self._unpack(f"{length}{_FORMATS[item]}"))
        for _ in range(length):
            if item == _STRING:
                self._note(key, self._bytes())
            else:
                self._value(item, key=key, depth=depth + 1)
        return None

    def _note(self, key: str, text: bytes) -> None:
        if key == _TOKENS:
            self._tokens.update(struct.pack("<Q", len(text)) + text)
            self._num_tokens += 1

    def _tensor(self) -> int:
        self._bytes()
        (num_dimensions,) = self._unpack("I")
        if num_dimensions > 8:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        size: int = math.prod(self._unpack(f"{num_dimensions}Q"))
        self._unpack("IQ")
        return size


def _cost(values: dict[str, object], name: str, *, parameters: int, number: Any) -> ModelCost:  # Any: a function
    layers, heads = number("block_count"), max(number("attention.head_count"), 1)
    head_width = number("attention.key_length") or number("embedding_length") // heads
    kv_heads = values.get(f"{name}.attention.head_count_kv", heads)
    all_kv_heads = sum(kv_heads) if isinstance(kv_heads, list) else int(str(kv_heads)) * layers
    return ModelCost(
        parameters=parameters, attention_width=heads * head_width * layers, kv_width=all_kv_heads * head_width
    )
