"""Pools on disk: what is written is read, whatever crashes in between, and what is broken is named."""

from __future__ import annotations

import itertools
import json
import lzma
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bench.recorded.lines import decode_lengths, encode_lengths
from orchestrator.bench.recorded.pool import FINISHED, RECORDING, PoolWriter, read_pool
from orchestrator.bench.recorded.records import PoolProblem, PoolSample
from orchestrator.engine import FinishReason, Message
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling

from .pools import a_header, a_problem, a_sample

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@st.composite
def samples(draw: st.DrawFn) -> PoolSample:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    places = [0, *cuts, len(text)]
    lengths = [after - before for before, after in itertools.pairwise(places)]
    sample = a_sample(text, lengths, finish=draw(st.sampled_from(FinishReason)), answer=draw(st.none() | texts))
    logprobs = draw(st.lists(st.integers(0, 65535), min_size=sample.text_tokens, max_size=sample.text_tokens))
    rewards = draw(st.none() | st.lists(st.integers(0, 10_000), max_size=4))
    scores = {} if rewards is None else {"prm": [reward / 10_000 for reward in rewards]}
    return a_sample(
        text,
        lengths,
        finish=sample.finish,
        answer=sample.answer,
        is_correct=draw(st.booleans()),
        logprobs=logprobs,
        **scores,
    )


problems = st.builds(
    lambda text, known, order, tokens: a_problem(
        text, [known[place % len(known)] for place in order], prompt_tokens=tokens
    ),
    texts,
    st.lists(samples(), min_size=1, max_size=3),
    st.lists(st.integers(0, 5), min_size=3, max_size=3),
    st.integers(0, 500),
)
HEADER = a_header(num_samples=3, has_logprobs=True, scorers={"prm": a_header().model})


@given(st.lists(problems, max_size=4, unique_by=lambda problem: problem.id))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_before_and_after_it_is_compressed(written: list[PoolProblem]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = PoolWriter(Path(folder) / "p", HEADER)
        for problem in written:
            writer.append(problem)
        if written:
            assert list(read_pool(writer.recording).problems.values()) == written
        order = [problem.id for problem in reversed(written)]
        pool = read_pool(writer.finish(order))
        assert (pool.name, pool.header) == ("p", HEADER)
        assert list(pool.problems.values()) == written[::-1]
        assert [file.name for file in Path(folder).iterdir()] == ["p.pool.xz"]


@given(st.lists(st.integers(0, 61) | st.integers(0, 10**6)))
def test_lengths_of_tokens_survive_being_written(lengths: list[int]) -> None:
    text = encode_lengths(lengths)
    assert decode_lengths(text) == lengths
    if max(lengths, default=0) < 62:
        assert len(text) == len(lengths)


@pytest.mark.parametrize("text", ["3-", "(", "(5", "5)", "é", "(-1)", "(9999999999)", " "])
def test_what_are_no_lengths_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no lengths"):
        decode_lengths(text)


def test_equal_samples_are_written_once_and_come_back_in_their_order(tmp_path: Path) -> None:
    drawn = [a_sample("yes"), a_sample("no"), a_sample("yes")]
    writer = PoolWriter(tmp_path / "p", a_header(num_samples=3))
    writer.append(a_problem("?", drawn))
    line = json.loads(writer.recording.read_text().splitlines()[1])
    assert (line["texts"], line["order"]) == (["yes", "no"], [0, 1, 0])
    assert list(read_pool(writer.recording).problems["<?>"].samples) == drawn


def test_a_conversation_leads_to_its_problem(tmp_path: Path) -> None:
    writer = PoolWriter(tmp_path / "p", a_header())
    writer.append(a_problem("1+1", [a_sample("2")]))
    pool = read_pool(tmp_path / "p")
    found = pool.problem_of([Message("user", "1+1")])
    assert found is not None
    assert found.id == "<1+1>"
    assert pool.problem_of([Message("system", "1+1")]) is None


# Crashes


@pytest.mark.parametrize("num_bytes", [1, 40, 150])
def test_half_a_line_is_dropped_and_written_over(tmp_path: Path, num_bytes: int) -> None:
    writer = PoolWriter(tmp_path / "p", a_header())
    writer.append(a_problem("first", [a_sample("1")]))
    whole = writer.recording.read_bytes()
    writer.append(a_problem("second", [a_sample("2")]))
    writer.recording.write_bytes(writer.recording.read_bytes()[: len(whole) + num_bytes])
    assert list(read_pool(writer.recording).problems) == ["<first>"]
    again = PoolWriter(tmp_path / "p", a_header())
    assert again.held == {"<first>"}
    again.append(a_problem("third", [a_sample("3")]))
    assert list(read_pool(tmp_path / "p.pool.jsonl").problems) == ["<first>", "<third>"]


@pytest.mark.parametrize("content", [b"", b'{"format":1,"set":"su'])
def test_a_file_without_a_whole_header_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.pool.jsonl").write_bytes(content)
    writer = PoolWriter(tmp_path / "p", a_header())
    writer.append(a_problem("first", [a_sample("1")]))
    assert list(read_pool(writer.recording).problems) == ["<first>"]


def test_a_complete_pool_can_be_added_to(tmp_path: Path) -> None:
    writer = PoolWriter(tmp_path / f"p{FINISHED}", a_header(created="then"))
    writer.append(a_problem("first", [a_sample("1")]))
    writer.finish([])
    more = PoolWriter(tmp_path / f"p{RECORDING}", a_header(created="now"))
    assert more.held == {"<first>"}
    before = more.finished.read_bytes()
    assert more.finish([]).read_bytes() == before, "there was nothing to add"
    more.append(a_problem("second", [a_sample("2")]))
    pool = read_pool(more.finish(["<second>", "<first>", "<never>"]))
    assert list(pool.problems) == ["<second>", "<first>"]
    assert pool.header.created == "then"


def test_a_file_that_somebody_else_changed_is_left_alone(tmp_path: Path) -> None:
    writer, other = PoolWriter(tmp_path / "p", a_header()), PoolWriter(tmp_path / "p", a_header())
    writer.append(a_problem("first", [a_sample("1")]))
    other = PoolWriter(tmp_path / "p", a_header())
    writer.append(a_problem("second", [a_sample("2")]))
    with pytest.raises(InvalidRequest, match="somebody else"):
        other.append(a_problem("third", [a_sample("3")]))
    assert list(read_pool(tmp_path / "p").problems) == ["<first>", "<second>"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed is 0 in it and 1 here"),
        ({"num_samples": 2}, "num_samples is 1 in it and 2 here"),
        ({"sampling": Sampling(temperature=0.5)}, "sampling.temperature is 1.0 in it and 0.5 here"),
        ({"scorers": {"prm": a_header().model}}, "scorers.prm is None in it"),
    ],
)
def test_another_recording_is_not_mixed_in(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    PoolWriter(tmp_path / "p", a_header()).append(a_problem("first", [a_sample("1")]))
    with pytest.raises(InvalidRequest, match=named) as caught:
        PoolWriter(tmp_path / "p", a_header(**change))
    assert caught.value.field == "out"


def test_a_problem_is_not_written_twice_nor_with_half_a_character(tmp_path: Path) -> None:
    writer = PoolWriter(tmp_path / "p", a_header())
    writer.append(a_problem("first", [a_sample("1")]))
    with pytest.raises(InvalidRequest, match="already"):
        writer.append(a_problem("first", [a_sample("1")]))
    with pytest.raises(InvalidRequest, match="half a character"):
        writer.append(a_problem("\ud800", [a_sample("1")]))


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="cannot be written") as caught:
        PoolWriter(tmp_path / "file" / "p", a_header()).append(a_problem("?", [a_sample("1")]))
    assert str(tmp_path / "file" / "p.pool.jsonl") in caught.value.message


# Broken files

GOOD = {
    "id": "a",
    "text": "?",
    "messages": [["user", "?"]],
    "prompt_tokens": 3,
    "order": [0],
    "texts": ["12"],
    "pieces": ["110"],
    "finishes": ["end"],
    "answers": ["12"],
    "correct": [True],
}


def _read(folder: Path, *lines: bytes) -> None:
    path = folder / "p.pool.xz"
    path.write_bytes(lzma.compress(b"".join(line + b"\n" for line in (a_header().model_dump_json().encode(), *lines))))
    read_pool(path)


def test_the_line_that_the_broken_ones_are_made_of_is_good(tmp_path: Path) -> None:
    _read(tmp_path, json.dumps(GOOD).encode())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"order": [1]}, "order names sample 1 of 1"),
        ({"order": []}, "0 samples"),
        ({"order": [-1]}, "order.0"),
        ({"pieces": ["12"]}, "3 characters, the text has 2"),
        ({"pieces": ["1-"]}, "no lengths"),
        ({"pieces": []}, "pieces has 0 entries for 1 texts"),
        ({"texts": [12]}, "texts.0"),
        ({"finishes": ["bored"]}, "finishes.0"),
        ({"messages": []}, "messages"),
        ({"messages": [["robot", "?"]]}, "messages.0"),
        ({"prompt_tokens": -1}, "prompt_tokens"),
        ({"logprobs": [[1, 2]]}, "log probabilities"),
        ({"scores": {"prm": {"steps": [[0.5]], "prompt_tokens": [3]}}}, "scores of"),
        ({"scores": {"prm": {"steps": [[1.5]], "prompt_tokens": [3]}}}, "scores.prm.steps.0"),
        ({"scores": {"prm": {"steps": [[float("nan")]], "prompt_tokens": [3]}}}, "line 2"),
        ({"something": "else"}, "something"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong_in_it(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _read(tmp_path, json.dumps(GOOD | change).encode())
    assert "p.pool.xz" in caught.value.message
    assert "line 2" in caught.value.message
    assert named in caught.value.message


@pytest.mark.parametrize(
    "line", [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"id":"a"}', b'"' + b"x" * 200_000 + b'"', b"[" * 100_000]
)
def test_a_line_that_is_no_problem_is_named_by_its_number(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(InvalidRequest, match="line 3") as caught:
        _read(tmp_path, json.dumps(GOOD).encode(), line)
    assert len(caught.value.message) < 1000


def test_a_problem_that_is_there_twice_is_named(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    with pytest.raises(InvalidRequest, match="line 3: problem 'a' is there twice"):
        _read(tmp_path, line, line)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (b"{}", "line 1"),
        (b"no JSON", "line 1"),
        (a_header().model_dump_json().replace('"format":1', '"format":2').encode(), "format"),
        (a_header().model_dump_json().replace('"temperature":1.0', '"temperature":-1').encode(), "temperature"),
        (a_header().model_dump_json().replace('"parameters":1000', '"parameters":"many"').encode(), "parameters"),
    ],
)
def test_a_header_that_is_none_is_named(tmp_path: Path, header: bytes, named: str) -> None:
    (tmp_path / "p.pool.jsonl").write_bytes(header + b"\n")
    with pytest.raises(InvalidRequest, match=named) as caught:
        read_pool(tmp_path / "p")
    assert "line 1" in caught.value.message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "breaks off"),
        (b"no xz", "cannot be decompressed"),
        (lzma.compress(b"x" * 1000)[:-20], "breaks off"),
        (lzma.compress(b""), "empty"),
        (lzma.compress(b"no line"), "line 1 breaks off"),
    ],
)
def test_a_file_that_cannot_be_decompressed_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "p.pool.xz").write_bytes(content)
    with pytest.raises(InvalidRequest, match=named) as caught:
        read_pool(tmp_path / "p.pool.xz")
    assert "p.pool.xz" in caught.value.message


def test_a_file_that_swells_beyond_all_measure_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.bench.recorded.pool._MAX_BYTES", 1 << 20)
    (tmp_path / "p.pool.xz").write_bytes(lzma.compress(b"\n" * (2 << 20), preset=0))
    with pytest.raises(InvalidRequest, match="more than 1 MiB"):
        read_pool(tmp_path / "p")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pool.xz", tmp_path / "none", tmp_path):
        with pytest.raises(InvalidRequest, match="cannot be read") as caught:
            read_pool(path)
        assert caught.value.field == "pool"
