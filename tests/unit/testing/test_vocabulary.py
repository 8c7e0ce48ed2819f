"""Scripted vocabularies lose nothing and agree between processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.testing import ByteVocabulary, Vocabulary, WordVocabulary
from orchestrator.testing.vocabulary import text_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.from_regex(r"([A-Za-z]{1,25}[ .,\n0-9é🎉]{1,3}){1,8}")


@pytest.mark.parametrize("vocabulary", [WordVocabulary(), ByteVocabulary()])
@given(text=TEXTS)
def test_text_survives_the_way_to_ids_and_back(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.tokenize(text)
    assert text_of(vocabulary, ids) == text
    assert all(0 <= token < 2**53 for token in ids)
    assert all(vocabulary.piece(token) for token in ids)


@given(data=st.binary(max_size=60))
def test_bytes_survive_too(data: bytes) -> None:
    for vocabulary in (WordVocabulary(), ByteVocabulary()):
        assert b"".join(map(vocabulary.piece, vocabulary.tokenize_bytes(data))) == data


def test_a_token_is_a_word_a_number_or_a_run_of_punctuation() -> None:
    vocabulary = WordVocabulary()
    ids = vocabulary.tokenize("The answer, of 17 * 24, is\n\n\\boxed{408}. USA")
    pieces = [vocabulary.piece(token).decode() for token in ids]
    assert pieces == [
        *["The", " answer", ",", " of", " 17", " *", " 24", ",", " is", "\n\n", "\\", "boxed", "{", "408", "}.", " USA"]
    ]


def test_ids_mean_the_same_in_another_process() -> None:
    text = "Some words, 12345 and 日本語"
    code = f"from orchestrator.testing import WordVocabulary as V; print(V().tokenize({text!r}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(WordVocabulary().tokenize(text))


@given(token=st.integers(0, 2**53), wanted=st.integers(0, 40))
def test_any_number_is_an_id_or_nothing_and_others_differ_from_it(token: int, wanted: int) -> None:
    for vocabulary in (WordVocabulary(), ByteVocabulary()):
        assert isinstance(vocabulary.piece(token), bytes)
        others = vocabulary.others(token, wanted)
        assert len(set(others)) == wanted
        assert token not in others


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert text_of(WordVocabulary(), WordVocabulary().tokenize("a\ud800b")) == "a?b"
