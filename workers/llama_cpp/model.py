"""A loaded model as the engine sees it: vocabulary, special tokens, chat template, and what a token costs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import Message, Prompt
from orchestrator.workers.llama_cpp.binding import ModelHandle
from orchestrator.workers.template import ChatTemplate, encode_parts
from orchestrator.workers.vocabulary import BaseVocabulary

_ATTR_CONTROL = 1 << 3  # LLAMA_TOKEN_ATTR_CONTROL
_ATTR_USER_DEFINED = 1 << 4  # LLAMA_TOKEN_ATTR_USER_DEFINED
_NO_TOKEN = -1
_REMEMBERED_CONVERSATIONS = 64
"""A search continues the same few conversations thousands of times."""


class Vocabulary(BaseVocabulary):
    """Texts, ids and roles of a model's tokens."""

    def __init__(self, handle: ModelHandle) -> None:
        self._handle = handle
        api, vocab = handle.api, handle.vocab
        self.size = handle.num_tokens
        digest = hashlib.blake2b(digest_size=16)
        special: list[str] = []
        control: set[int] = set()
        get_text, get_attr = api.llama_vocab_get_text, api.llama_vocab_get_attr
        for token in range(self.size):
            text: bytes = get_text(vocab, token) or b""
            attributes: int = get_attr(vocab, token)
            digest.update(b"%d:%d:%b\n" % (attributes, len(text), text))
            if attributes & (_ATTR_CONTROL | _ATTR_USER_DEFINED) and text:
                special.append(text.decode("utf-8", "replace"))
                control.add(token)
        self.fingerprint = digest.hexdigest()
        self.special_texts = tuple(special)
        self.special_ids = frozenset(control)
        self.end_ids = frozenset(token for token in range(self.size) if api.llama_vocab_is_eog(vocab, token))
        self.bos: int = api.llama_vocab_bos(vocab)
        self.adds_bos: bool = bool(api.llama_vocab_get_add_bos(vocab)) and self.bos != _NO_TOKEN
        self.bos_text = self._text_of(self.bos)
        self.eos_text = self._text_of(api.llama_vocab_eos(vocab))
        self._pieces: dict[int, bytes] = {}

    def _text_of(self, token: int) -> str:
        if token == _NO_TOKEN:
            return ""
        text: bytes = self._handle.api.llama_vocab_get_text(self._handle.vocab, token) or b""
        return text.decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """Bytes a token adds to a text; none for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._handle.piece(token)
        return piece

    def encode(self, text: str, *, parses_special: bool = False) -> list[int]:
        """Ids of a text; texts of special tokens in it are plain text unless ``parses_special``."""
        # Lone surrogates become "?": llama.cpp throws on bytes that are no UTF-8.
        return self._handle.tokenize(text.encode("utf-8", "replace"), parses_special=parses_special)


class StepTag(NamedTuple):
    """How a process reward model of the step-tag form is asked: ids of the tag, and of its two answers."""

    tag: tuple[int, ...]
    good: int
    bad: int


class Model:
    """Weights, vocabulary and template of one GGUF file.

    Raises:
        ModelUnavailable: The file is missing, no GGUF, or damaged.
    """

    def __init__(self, path: Path, *, num_gpu_layers: int = 0) -> None:
        self.handle = ModelHandle(path, num_gpu_layers=num_gpu_layers)
        self.vocabulary = Vocabulary(self.handle)
        self.template = ChatTemplate(
            self.handle.chat_template(), bos_text=self.vocabulary.bos_text, eos_text=self.vocabulary.eos_text
        )
        self.trained_context: int = self.handle.api.llama_model_n_ctx_train(self.handle.pointer)
        self.num_parameters: int = self.handle.api.llama_model_n_params(self.handle.pointer)
        self._conversation_ids = lru_cache(maxsize=_REMEMBERED_CONVERSATIONS)(self._encoded_conversation)

    def cost(self, prices: TokenPrices) -> ModelCost:
        """What the cost models need, from the GGUF header."""
        api, pointer = self.handle.api, self.handle.pointer
        heads, kv_heads = api.llama_model_n_head(pointer), api.llama_model_n_head_kv(pointer)
        head_width = self.handle.head_width
        layers = api.llama_model_n_layer(pointer)
        return ModelCost(
            parameters=self.num_parameters,
            attention_width=heads * head_width * layers,
            kv_width=kv_heads * head_width * layers,
            prices=prices,
        )

    def step_tag(self) -> StepTag | None:
        """From the header's ``ttc.step_tag``, ``ttc.step_good`` and ``ttc.step_bad``; None for other models."""
        texts = [self.handle.metadata(f"ttc.step_{part}") for part in ("tag", "good", "bad")]
        tag, good, bad = (self.vocabulary.encode(text) if text else [] for text in texts)
        return StepTag(tuple(tag), good[0], bad[0]) if tag and len(good) == len(bad) == 1 else None

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The ids the model reads for a prompt: template, conversation, and what it has already written.

        Raises:
            InvalidRequest: The prompt is empty, or an id is not in the vocabulary.
        """
        return self.vocabulary.continued(self._conversation_ids(prompt.messages), prompt)

    def add_steps(self, ids: list[int], steps: Iterable[str], step_tag: StepTag) -> list[int]:
        """Appends steps to ``ids``, each with the tag after it, unless it ends with it already.

        Returns:
            Positions of the tags' last tokens.
        """
        positions: list[int] = []
        for step in steps:
            ids += self.vocabulary.encode(step)
            if tuple(ids[-len(step_tag.tag) :]) != step_tag.tag:
                ids += step_tag.tag
            positions.append(len(ids) - 1)
        return positions

    def _encoded_conversation(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        vocabulary = self.vocabulary
        ids = encode_parts(vocabulary, self.template.render(messages)) if messages else []
        if vocabulary.adds_bos and ids[:1] != [vocabulary.bos]:
            ids.insert(0, vocabulary.bos)
        return tuple(ids)

    def free(self) -> None:
        """Frees the weights."""
        self.handle.free()
