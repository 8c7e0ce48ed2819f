"""From prompts to the ids a model reads: the tokenizer's chat template, the messages, what is already written."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from orchestrator.engine import Message, Prompt
from orchestrator.errors import InvalidRequest
from orchestrator.workers.template import Part, cut, encode_parts, plain
from orchestrator.workers.vllm.vocabulary import Vocabulary, without_surrogates

_REMEMBERED_CONVERSATIONS = 64
"""A search continues the same few conversations thousands of times."""


class Renders(Protocol):
    """The part of a Hugging Face tokenizer that is used."""

    chat_template: Any  # Any: a text, or one for each use

    def encode(self, text: str) -> list[int]:
        """A document's ids, with what begins and ends it."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The conversation as text."""
        ...


class PromptReader:
    """Turns prompts into ids.

    Args:
        vocabulary: Of the model.
        tokenizer: Of the model. Without a template, conversations have plain headings.
        start: Ids that begin a document, where the template does not write them itself.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: Renders, *, start: Sequence[int] = ()) -> None:
        self.vocabulary = vocabulary
        self._tokenizer = tokenizer
        self._start = tuple(start)
        self._conversation_ids = lru_cache(maxsize=_REMEMBERED_CONVERSATIONS)(self._encoded_conversation)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The ids the model reads for a prompt.

        Raises:
            InvalidRequest: The prompt is empty, an id is not in the vocabulary, or the template refuses.
        """
        return self.vocabulary.continued(self._conversation_ids(prompt.messages), prompt)

    def document_ids(self, text: str) -> list[int]:
        """A text by itself as the model reads it, with the tokens that begin and end it; never empty."""
        return self._tokenizer.encode(without_surrogates(text)) or self.vocabulary.encode(" ") or [0]

    def _encoded_conversation(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        if not messages:
            return self._start
        if not self._tokenizer.chat_template:
            return (*self._start, *encode_parts(self.vocabulary, plain(messages)))
        return tuple(encode_parts(self.vocabulary, self._rendered(messages)))

    def _rendered(self, messages: Sequence[Message]) -> list[Part]:
        """The conversation in pieces; contents are cut in afterwards, so that none can pass for the template's text."""
        nonce = secrets.token_hex(8)
        marks = [f"\ue000{nonce}:{index}\ue001" for index in range(len(messages))]
        turns = [{"role": message.role, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates are code of the model's author: jinja errors and any other
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", field="messages"
            ) from error
        kept = {mark: message.content for mark, message in zip(marks, messages, strict=True) if mark in text}
        return cut(text, kept)
