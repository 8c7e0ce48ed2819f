"""Tokens as bytes, from what tokenizers write of themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.errors import InvalidRequest, ModelUnavailable
from orchestrator.workers.vllm.vocabulary import Vocabulary, token_bytes, without_surrogates

LAB: dict[str, Any] = json.loads((WEIGHTS / "small" / "tokenizer.json").read_text(encoding="utf-8"))


def tokenizer(decoder: Any, vocab: Any, added: tuple[tuple[int, str, bool], ...] = ()) -> dict[str, Any]:
    return {
        "model": {"vocab": vocab},
        "decoder": decoder,
        "added_tokens": [{"id": index, "content": text, "special": special} for index, text, special in added],
    }


def test_letters_of_a_byte_level_vocabulary_are_bytes():
    data = tokenizer({"type": "ByteLevel"}, {"Ġthe": 0, "Ċ": 1, "Ã": 2, "©": 3, "a": 4}, ((5, "<|end|>", True),))
    assert token_bytes(data, model="m") == [b" the", b"\n", b"\xc3", b"\xa9", b"a", b""]


def test_all_bytes_have_a_letter_of_their_own():
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = [*map(chr, shown), *(chr(256 + place) for place in range(len(hidden)))]
    data = tokenizer({"type": "ByteLevel"}, {letter: index for index, letter in enumerate(letters)})
    assert sorted(token_bytes(data, model="m")) == [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    "decoder", [{"type": "Metaspace"}, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}]
)
def test_pieces_of_text_have_spaces_and_bytes_to_fall_back_on(decoder: Any):
    data = tokenizer(decoder, {"<unk>": 0, "▁the": 1, "<0xE2>": 2, "<0xE2": 3}, ((0, "<unk>", True),))
    assert token_bytes(data, model="m") == [b"", b" the", b"\xe2", b"<0xE2"]


def test_a_vocabulary_with_scores_is_read_by_place_and_holes_are_nothing():
    data = tokenizer({"type": "Metaspace"}, [["▁a", -1.0], ["b", -2.0]], ((4, "<tool>", False),))
    assert token_bytes(data, model="m") == [b" a", b"b", b"", b"", b"<tool>"]


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece"}])
def test_another_kind_of_tokenizer_is_refused_by_name(decoder: Any):
    with pytest.raises(ModelUnavailable, match=r"'bert'.*decoder"):
        token_bytes(tokenizer(decoder, {"a": 0}), model="bert")


def test_the_labs_pieces_make_up_its_texts():
    pieces = token_bytes(LAB, model="lab")
    ids = {piece: index for index, piece in enumerate(pieces)}
    assert ids[b"\n\n"]
    assert pieces[1] == b""
    assert pieces[LAB["model"]["vocab"]["<0xFF>"]] == b"\xff"


def test_lone_surrogates_become_question_marks_and_other_texts_stay():
    assert without_surrogates("a\ud800b") == "a?b"
    assert without_surrogates("日本 🎉") == "日本 🎉"


@pytest.fixture
def lab() -> Vocabulary:
    pytest.importorskip("tokenizers", reason="comes with vLLM")
    return Vocabulary(json.dumps(LAB), model="lab", end_ids=[2])


def test_a_text_cannot_become_a_special_token(lab: Vocabulary):
    assert lab.encode("</s>", parses_special=True) == [2]
    plain = lab.encode("</s>")
    assert len(plain) == 4
    assert lab.decode(plain) == "</s>"
    assert lab.only_id("</s>") == 2
    assert lab.only_id("no such token") is None


def test_ids_outside_the_vocabulary_are_refused_by_number(lab: Vocabulary):
    with pytest.raises(InvalidRequest, match="token id 100000") as caught:
        lab.decode([100_000])
    assert caught.value.field == "token_ids"


def test_a_start_that_tokenizers_add_is_left_out_of_what_continues():
    pytest.importorskip("tokenizers", reason="comes with vLLM")
    data = LAB | {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, LAB["normalizer"]]}
    }
    vocabulary = Vocabulary(json.dumps(data), model="lab", end_ids=[2])
    assert vocabulary.decode(vocabulary.encode("12", parses_special=True)) == " 12"
    assert vocabulary.decode(vocabulary.encode("12")) == "12"
