"""Ids of what was written so far, and texts of ids, whatever tokenises."""

from __future__ import annotations

import pytest

from orchestrator.engine import Prompt, Span
from orchestrator.errors import InvalidRequest
from orchestrator.workers.vocabulary import BaseVocabulary


class Letters(BaseVocabulary):
    """Ids are bytes, of which there are 200."""

    size = 200
    fingerprint = "letters"

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def encode(self, text: str, *, parses_special: bool = False) -> list[int]:
        return list(text.encode())


def written(*spans: Span) -> Prompt:
    return Prompt((), spans)


def test_ids_of_this_vocabulary_are_kept_and_others_are_encoded_anew():
    prompt = written(Span("ab", (7, 8), "letters"), Span("cd", (7, 8), "another"))
    assert Letters().continued([1], prompt) == [1, 7, 8, *b"cd"]


def test_an_id_beyond_the_vocabulary_is_named():
    with pytest.raises(InvalidRequest, match="token id 200 is not in the vocabulary of 200 tokens"):
        Letters().continued([1], written(Span("a", (3, 200), "letters")))
    with pytest.raises(InvalidRequest, match="token id -1 "):
        Letters().decode([-1])


def test_nothing_to_read_is_refused():
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        Letters().continued([], written())


def test_bytes_that_are_no_text_are_shown_as_such():
    assert Letters().decode([*"é".encode()[:1], ord("a")]) == "\ufffda"
