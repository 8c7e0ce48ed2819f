"""`BaseVocabulary`: what the vocabularies of models that run here share, whoever tokenises for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from orchestrator.engine import Prompt
from orchestrator.errors import InvalidRequest


class BaseVocabulary(ABC):
    """Texts and ids of a model's tokens.

    Attributes:
        size: Ids are from 0 to below this.
        fingerprint: The same for the same vocabulary, as `orchestrator.engine.Span.tokenizer` carries it.
    """

    size: int
    fingerprint: str

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """Bytes a token adds to a text; none for special tokens."""

    @abstractmethod
    def encode(self, text: str, *, parses_special: bool = False) -> list[int]:
        """Ids of a text; texts of special tokens in it are plain text unless ``parses_special``."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD.

        Raises:
            InvalidRequest: An id is not in the vocabulary.
        """
        self.require_ids(token_ids)
        return b"".join(map(self.piece, token_ids)).decode("utf-8", "replace")

    def require_ids(self, token_ids: Sequence[int]) -> None:
        """Refuses ids outside the vocabulary; one of them would fail a whole batch.

        Raises:
            InvalidRequest: Naming the first one.
        """
        for token in token_ids:
            if not 0 <= token < self.size:
                raise InvalidRequest(
                    f"token id {token} is not in the vocabulary of {self.size} tokens", field="token_ids", value=token
                )

    def continued(self, conversation: Sequence[int], prompt: Prompt) -> list[int]:
        """A conversation's ids with those of what the model has already written of its reply.

        Spans that carry ids of this vocabulary keep them; other spans are encoded as plain text.

        Raises:
            InvalidRequest: An id is not in the vocabulary, or there is nothing to read.
        """
        ids = list(conversation)
        for span in prompt.continuation:
            if span.token_ids is not None and span.tokenizer == self.fingerprint:
                self.require_ids(span.token_ids)
                ids.extend(span.token_ids)
            else:
                ids.extend(self.encode(span.text))
        if not ids:
            raise InvalidRequest("the prompt is empty; give a message or a text to continue", field="prompt")
        return ids
