"""The one place that touches llama.cpp's C interface: a loaded library, a model, a context, a batch.

Thin and typed: every wrapper is one or a few calls. Nothing here knows about requests.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.errors import EngineFailed, MissingDependency, ModelUnavailable
from orchestrator.workers.llama_cpp.cells import Extent

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ: sequence ids one context can have."""

_GGML_LOG_LEVEL_ERROR = 4
_GGML_LOG_LEVEL_CONTINUED = 5
_FLASH_ATTENTION_AUTO = -1
_FLASH_ATTENTION_OFF = 0
_FLASH_ATTENTION_ON = 1
_FLASH_HEAD_WIDTH = 64
"""Narrower heads do not fill the vectors of flash attention on a CPU with AVX-512 and are computed number by number;
plain attention, which multiplies matrices, is faster there, though it computes masked cells too."""
_POOLING_NONE = 0

FloatRow = npt.NDArray[np.float32]
FloatMatrix = npt.NDArray[np.float32]


class _Library:
    """The loaded package, with its log kept instead of printed."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module  # Any: the package has no usable types for its ctypes functions
        self._errors: deque[str] = deque(maxlen=8)
        self._level = 0
        self._callback = self.module.llama_log_callback(self._log)  # must outlive every call
        self.module.llama_log_set(self._callback, None)
        # Calls of under a microsecond keep the GIL: giving it up beside a busy thread costs 5 ms each time.
        quick = ctypes.PyDLL(None, handle=self.module.llama_cpp._lib._handle)
        self.logits_of, self.embedding_of = quick.llama_get_logits, quick.llama_get_embeddings_ith
        self.logits_of.argtypes = [ctypes.c_void_p]
        self.embedding_of.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self.logits_of.restype = self.embedding_of.restype = ctypes.c_void_p
        self.module.llama_backend_init()

    def _log(self, level: int, text: bytes | None, _user_data: object) -> None:
        if level != _GGML_LOG_LEVEL_CONTINUED:
            self._level = level
        if self._level == _GGML_LOG_LEVEL_ERROR and text:
            self._errors.append(text.decode("utf-8", "replace").strip())

    def take_errors(self) -> str:
        """The last error lines since this was asked, as one line."""
        lines = [line for line in self._errors if line]
        self._errors.clear()
        return "; ".join(lines)


_loading = threading.Lock()  # invariant: the library is initialised once
_loaded: list[_Library] = []


def library() -> _Library:
    """The llama.cpp library, loaded at the first call.

    Raises:
        MissingDependency: The package is not installed.
    """
    with _loading:
        if not _loaded:
            try:
                import llama_cpp
            except ImportError as error:
                raise MissingDependency(
                    package="llama-cpp-python", extra="local", purpose="the embedded engine"
                ) from error
            _loaded.append(_Library(llama_cpp))
        return _loaded[0]


class ModelHandle:
    """Weights and vocabulary in memory.

    Raises:
        ModelUnavailable: The file is missing, no GGUF, or damaged.
    """

    def __init__(self, path: Path, *, num_gpu_layers: int = 0) -> None:
        self.library = library()
        self.api = self.library.module
        self.path = path
        _require_gguf(path)
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = num_gpu_layers
        self.library.take_errors()
        self.pointer = self.api.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            reason = self.library.take_errors() or "llama.cpp gives no reason"
            raise ModelUnavailable(
                f"the model file {path.name!r} cannot be loaded: {reason}; fetch it again", path=str(path)
            )
        self.vocab = self.api.llama_model_get_vocab(self.pointer)
        self.num_tokens: int = self.api.llama_vocab_n_tokens(self.vocab)
        self._in_use = threading.Lock()  # invariant: nobody reads the vocabulary while it is freed

    def metadata(self, key: str) -> str | None:
        """A value of the GGUF header as text."""
        buffer = ctypes.create_string_buffer(256)
        length = self.api.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8", "replace")

    @property
    def head_width(self) -> int:
        """Numbers in a key of one attention head."""
        architecture = self.metadata("general.architecture") or ""
        stated = self.metadata(f"{architecture}.attention.key_length")
        if stated is not None:
            return int(stated)
        return int(self.api.llama_model_n_embd(self.pointer)) // int(self.api.llama_model_n_head(self.pointer))

    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template."""
        source = self.api.llama_model_chat_template(self.pointer, None)
        return None if source is None else source.decode("utf-8", "replace")

    def tokenize(self, text: bytes, *, parses_special: bool) -> list[int]:
        """Token ids of UTF-8 text; nothing is put before or after it."""
        room = len(text) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            with self._in_use:
                self._require_open()
                count = self.api.llama_tokenize(self.vocab, text, len(text), ids, room, False, parses_special)
            if count >= 0:
                return ids[:count]
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token adds to a text; none for control tokens."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            with self._in_use:
                self._require_open()
                length: int = self.api.llama_token_to_piece(self.vocab, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def free(self) -> None:
        """Frees the weights; safe to call twice."""
        with self._in_use:
            if self.pointer:
                self.api.llama_model_free(self.pointer)
                self.pointer = None

    def _require_open(self) -> None:
        if not self.pointer:
            raise EngineFailed("the model was closed", model=self.path.name)


class Row(NamedTuple):
    """One token to compute."""

    token: int
    position: int
    sequence: int
    wants_output: bool


class ContextHandle:
    """A KV cache and what is needed to run batches on it; implements `Memory`.

    Raises:
        EngineFailed: There is no memory for it.
    """

    def __init__(
        self,
        model: ModelHandle,
        *,
        name: str,
        num_cells: int,
        num_sequences: int,
        num_threads: int,
        batch_tokens: int,
        max_outputs: int,
        is_embedding: bool = False,
    ) -> None:
        self.api = model.api
        self._model = model
        self.batch_tokens = batch_tokens
        self.max_outputs = max_outputs
        params = self.api.llama_context_default_params()
        params.n_ctx = num_cells
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_seq_max = num_sequences
        params.n_outputs_max = max_outputs
        params.n_threads = params.n_threads_batch = num_threads
        params.kv_unified = True
        params.no_perf = True
        params.embeddings = is_embedding
        params.pooling_type = _POOLING_NONE
        self.pointer = None
        is_flash = model.head_width >= _FLASH_HEAD_WIDTH  # it skips cells of other sequences
        for flash_attention in (_FLASH_ATTENTION_ON if is_flash else _FLASH_ATTENTION_OFF, _FLASH_ATTENTION_AUTO):
            params.flash_attn_type = flash_attention
            self.pointer = self.api.llama_init_from_model(model.pointer, params)
            if self.pointer:
                break
        if not self.pointer:
            reason = model.library.take_errors() or "out of memory"
            raise EngineFailed(f"no context of {num_cells} cells: {reason}", model=name, is_retryable=False)
        self.num_cells: int = self.api.llama_n_ctx(self.pointer)
        self._memory = self.api.llama_get_memory(self.pointer)
        self._batch = _Batch(self.api, batch_tokens)
        self._views: dict[tuple[int, int], FloatRow] = {}
        self._width: int = self.api.llama_model_n_embd(model.pointer)

    def decode(self, rows: Sequence[Row]) -> int:
        """Computes a batch; 0 means success, else llama.cpp's code."""
        code: int = self.api.llama_decode(self.pointer, self._batch.filled(rows))
        return code

    def logits(self, num_outputs: int) -> FloatMatrix:
        """Logits [outputs, vocabulary] of the last batch: a view, valid until the next one.

        Args:
            num_outputs: How many of its rows wanted them.
        """
        width = self._model.num_tokens
        return self._view(self._model.library.logits_of(self.pointer), num_outputs * width).reshape(-1, width)

    def embedding(self, index: int) -> FloatRow:
        """Final hidden state of row ``index`` of the last batch: a view, valid until the next one."""
        return self._view(self._model.library.embedding_of(self.pointer, index), self._width)

    def _view(self, address: int | None, size: int) -> FloatRow:
        assert address is not None, "no output was asked for this row"
        view = self._views.get((address, size))
        if view is None:
            view = np.frombuffer(memoryview((ctypes.c_float * size).from_address(address)), dtype=np.float32)
            self._views[address, size] = view
        return view

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Makes ``target`` share the cells of ``source`` at positions [start, end)."""
        self.api.llama_memory_seq_cp(self._memory, source, target, start, end)

    def remove(self, sequence: int, start: int) -> None:
        """Takes a sequence off its cells from ``start`` on."""
        self.api.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def remove_range(self, sequence: int, start: int, end: int) -> None:
        """Takes a sequence off its cells in [start, end)."""
        self.api.llama_memory_seq_rm(self._memory, sequence, start, end)

    def extent(self, sequence: int) -> Extent:
        """Positions a sequence holds, as llama.cpp sees it."""
        return Extent(
            self.api.llama_memory_seq_pos_min(self._memory, sequence),
            self.api.llama_memory_seq_pos_max(self._memory, sequence),
        )

    def clear(self) -> None:
        """Empties the whole cache."""
        self.api.llama_memory_clear(self._memory, False)

    def state_bytes(self) -> int:
        """Size of the saved state: grows by a fixed amount with every occupied cell and every share in one."""
        size: int = self.api.llama_state_get_size(self.pointer)
        return size

    def free(self) -> None:
        """Frees the cache."""
        if self.pointer:
            self.api.llama_free(self.pointer)
            self.pointer = None


class _Batch:
    """A `llama_batch` over arrays of our own, filled without a call per token."""

    def __init__(self, api: Any, size: int) -> None:  # Any: the package's module
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._sequences = np.zeros(size, np.int32)
        self._counts = np.ones(size, np.int32)
        self._outputs = np.zeros(size, np.int8)
        base = self._sequences.ctypes.data
        self._pointers = np.arange(base, base + 4 * size, 4, dtype=np.uint64)
        batch = api.llama_batch()
        int_pointer = ctypes.POINTER(ctypes.c_int32)
        batch.token = self._tokens.ctypes.data_as(int_pointer)
        batch.pos = self._positions.ctypes.data_as(int_pointer)
        batch.n_seq_id = self._counts.ctypes.data_as(int_pointer)
        batch.seq_id = self._pointers.ctypes.data_as(ctypes.POINTER(int_pointer))
        batch.logits = self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._batch = batch

    def filled(self, rows: Sequence[Row]) -> Any:  # Any: llama_batch
        count = len(rows)
        tokens, positions, sequences, outputs = zip(*rows, strict=True)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequences[:count] = sequences
        self._outputs[:count] = outputs
        self._batch.n_tokens = count
        return self._batch


def _require_gguf(path: Path) -> None:
    if not path.is_file():
        raise ModelUnavailable(f"there is no model file at {str(path)!r}; fetch the model first", path=str(path))
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelUnavailable(f"the model file {str(path)!r} cannot be read: {error}", path=str(path)) from error
    if magic != b"GGUF":
        raise ModelUnavailable(f"{str(path)!r} is not a GGUF file; choose a model in that format", path=str(path))
