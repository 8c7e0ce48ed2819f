"""Chat templates: from messages to the text a model was trained on, with the author of each piece known.

The template comes from the model file and runs in a sandbox. Messages are rendered as placeholders that are cut out
afterwards, so that the caller can tell the template's own text, whose special tokens count, from what users wrote.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest, MissingDependency

if TYPE_CHECKING:
    from jinja2 import Template

_logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """A piece of a rendered conversation."""

    text: str
    is_message: bool


class Encodes(Protocol):
    """A vocabulary that can tell special tokens from text that looks like them."""

    special_texts: tuple[str, ...]
    special_ids: frozenset[int]

    def encode(self, text: str, *, parses_special: bool = False) -> list[int]:
        """Ids of a text."""
        ...


def encode_parts(vocabulary: Encodes, parts: Sequence[Part]) -> list[int]:
    """Encodes a rendered conversation so that no message can contribute a special token.

    The text is encoded as a whole, as the model was trained, unless a message spells a special token or the whole
    holds other special tokens than the template's own parts; then part by part, messages as plain text.
    """
    if not any(special in part.text for part in parts if part.is_message for special in vocabulary.special_texts):
        whole = vocabulary.encode("".join(part.text for part in parts), parses_special=True)
        own = [
            token
            for part in parts
            if not part.is_message
            for token in vocabulary.encode(part.text, parses_special=True)
            if token in vocabulary.special_ids
        ]
        if [token for token in whole if token in vocabulary.special_ids] == own:
            return whole
    return [token for part in parts for token in vocabulary.encode(part.text, parses_special=not part.is_message)]


class ChatTemplate:
    """Renders conversations up to the point where the model's reply begins.

    Args:
        source: Jinja source; None for a plain layout with one heading per turn.
        bos_text: Text of the token that begins a document.
        eos_text: Text of the token that ends one.
    """

    def __init__(self, source: str | None, *, bos_text: str, eos_text: str) -> None:
        self._template = None if source is None else _compiled(source)
        self._bos_text = bos_text
        self._eos_text = eos_text

    def render(self, messages: Sequence[Message]) -> list[Part]:
        """The conversation in pieces.

        Raises:
            InvalidRequest: The template refuses these messages.
        """
        if self._template is None:
            return plain(messages)
        nonce = secrets.token_hex(8)
        marks = [f"\ue000{nonce}:{index}\ue001" for index in range(len(messages))]
        text = self._rendered(self._template, messages, marks)
        if any(mark not in text for mark in marks):  # a template that drops or rewrites a turn, such as old thoughts
            kept = [mark in text for mark in marks]
            marks = [mark for mark, is_kept in zip(marks, kept, strict=True) if is_kept]
            messages = [message for message, is_kept in zip(messages, kept, strict=True) if is_kept]
        contents = {mark: message.content for mark, message in zip(marks, messages, strict=True)}
        return cut(text, contents)

    def _rendered(self, template: Template, messages: Sequence[Message], contents: Sequence[str]) -> str:
        from jinja2 import TemplateError

        turns = [
            {"role": message.role, "content": content} for message, content in zip(messages, contents, strict=True)
        ]
        try:
            return template.render(
                messages=turns,
                add_generation_prompt=True,
                bos_token=self._bos_text,
                eos_token=self._eos_text,
                tools=None,
                documents=None,
            )
        except (TemplateError, TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", field="messages"
            ) from error


def cut(text: str, contents: Mapping[str, str]) -> list[Part]:
    """A rendered text in pieces, each placeholder in it replaced by the content it stands for."""
    parts = [Part(text, is_message=False)]
    for mark, content in contents.items():
        pieces: list[Part] = []
        for part in parts:
            if part.is_message or mark not in part.text:
                pieces.append(part)
                continue
            for number, piece in enumerate(part.text.split(mark)):
                if number:
                    pieces.append(Part(content, is_message=True))
                pieces.append(Part(piece, is_message=False))
        parts = pieces
    return [part for part in parts if part.text]


def plain(messages: Sequence[Message]) -> list[Part]:
    """A layout with one heading per turn, for models without a template."""
    parts: list[Part] = []
    for message in messages:
        parts += [
            Part(f"### {message.role}:\n", is_message=False),
            Part(message.content, is_message=True),
            Part("\n\n", is_message=False),
        ]
    return [*parts, Part("### assistant:\n", is_message=False)]


def _compiled(source: str) -> Template | None:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingDependency(package="jinja2", extra="local", purpose="the embedded engine") from error

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:  # Any: whatever a template holds
        return json.dumps(value, ensure_ascii=False, indent=indent)

    # No autoescape: the output is model input, not HTML.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    try:
        return environment.from_string(source)
    except TemplateError as error:
        _logger.warning("the model's chat template is broken, plain headings are used: %s", error)
        return None
