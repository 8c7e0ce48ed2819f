"""What the header of a GGUF file says, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.lab.model_names import weights_path
from orchestrator.errors import ModelUnavailable
from orchestrator.workers.catalogue.gguf_header import read_gguf_header


def test_the_lab_s_models_are_described():
    small, judge = read_gguf_header(weights_path("small")), read_gguf_header(weights_path("prm"))
    assert (small.architecture, small.parameters, small.context_length) == ("llama", 486_240, 256)
    assert (small.cost.kv_width, small.cost.kv_bytes_per_token) == (384, 1536)
    assert small.file_bytes == weights_path("small").stat().st_size
    assert (small.rewards_steps, judge.rewards_steps) == (False, True)
    assert small.vocabulary == judge.vocabulary
    assert small.num_tokens == 448


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(100),
        b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 40,
    ],
)
def test_what_is_no_such_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes):
    file = tmp_path / "some.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="no GGUF file, or damaged"):
        read_gguf_header(file)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="cannot be read: No such file"):
        read_gguf_header(tmp_path / "none.gguf")


@given(cut=st.integers(0, 20_000), flip=st.integers(0, 20_000), byte=st.integers(0, 255))
def test_a_damaged_header_never_ends_in_another_error(tmp_path_factory, cut: int, flip: int, byte: int):
    content = bytearray(weights_path("draft").read_bytes()[:20_000])
    content[flip % len(content)] = byte
    file = tmp_path_factory.mktemp("damaged") / "some.gguf"
    file.write_bytes(content[:cut] if cut % 2 else content)
    try:
        read_gguf_header(file)
    except ModelUnavailable:
        return
