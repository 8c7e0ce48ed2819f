"""Files of problems: what is wrong with one is said by file, line and field; parts of one are drawn with a seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.datasets.file_set import FileSet, chosen
from orchestrator.bench.datasets.gsm8k import open_gsm8k
from orchestrator.bench.datasets.records import read_csv_records, read_json_records
from orchestrator.bench.problems import Problem
from orchestrator.errors import InvalidRequest

GOOD = {"question": "1+1?", "answer": "#### 2"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "1+1?", "answer"', "line 2 is no JSON, or cut off"),
        ("[" * 100_000, "line 2 is no JSON"),
        ('{"question": NaN, "answer": "#### 2"}', "line 2 is no JSON.*NaN is no number"),
        ('{"question": 1' + "0" * 5000 + "}", "line 2 is no JSON"),
        ("17", "line 2 is a number and should be an object"),
        ("null", "line 2 is null and should be an object"),
        (b'{"question": "\xff"}', "line 2 is no UTF-8 text .*unpack"),
        ('{"answer": "#### 2"}', "line 2: field 'question' is missing; fields there: answer"),
        ('{"question": null, "answer": "#### 2"}', "line 2: field 'question' is missing"),
        ('{"question": ["x"], "answer": "#### 2"}', "line 2: field 'question' is a list and should be text"),
        ('{"question": "  ", "answer": "#### 2"}', "line 2: field 'question' is empty"),
        ('{"question": "\\ud800", "answer": "#### 2"}', "line 2: field 'question' holds half a character"),
        ('{"question": "x", "answer": "two"}', "line 2: field 'answer' does not end with #### and a number"),
        ('{"question": "x", "answer": "' + "y" * 200_000 + '"}', "line 2: field 'answer' does not end"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_line_is_named_with_its_fault(written, line, complaint: str) -> None:
    path = written(GOOD, line, GOOD)
    with pytest.raises(InvalidRequest, match=complaint) as raised:
        open_gsm8k(path)
    assert str(path) in raised.value.message
    assert len(raised.value.message) < 600


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path, written) -> None:
    with pytest.raises(InvalidRequest, match="is a folder; name the file in it"):
        read_json_records(tmp_path)
    with pytest.raises(InvalidRequest, match=r"there is no file .*missing\.jsonl"):
        read_json_records(tmp_path / "missing.jsonl")
    with pytest.raises(InvalidRequest, match="cannot be used"):
        read_json_records(tmp_path / ("x" * 5000))
    with pytest.raises(InvalidRequest, match=r"there is no file|cannot be used"):
        read_json_records(tmp_path / "a\0b")
    for content in (b"", b"\n \n", b"\xef\xbb\xbf", b"[]"):
        with pytest.raises(InvalidRequest, match="holds no entries"):
            read_json_records(written(content))
    with pytest.raises(InvalidRequest, match="holds no entries"):
        read_csv_records(written("Rank,Puzzles"))
    with pytest.raises(InvalidRequest, match="no UTF-8 text"):
        read_csv_records(written(b"\x1f\x8b\x08\x00"))
    with pytest.raises(InvalidRequest, match="is no CSV: field larger than field limit"):
        read_csv_records(written("Puzzles", "1" * 200_000))


def test_one_list_byte_order_marks_blank_lines_and_windows_line_ends_are_read(written) -> None:
    listed = read_json_records(written([GOOD, GOOD]))
    assert [record.place for record in listed] == ["entry 1", "entry 2"]
    lines = read_json_records(written(b"\xef\xbb\xbf" + b'{"a": 1}\r', b"\r", b'{"a": "\\u2028"}\r', b""))
    assert [(record.number, record.values) for record in lines] == [(1, {"a": 1}), (3, {"a": "\u2028"})]
    with pytest.raises(InvalidRequest, match="the list is no JSON"):
        read_json_records(written("[{}, {}"))
    with pytest.raises(InvalidRequest, match="entry 2 is text and should be an object"):
        read_json_records(written([GOOD, "x"]))


@given(st.integers(1, 30), st.data(), st.integers(0, 2**32))
def test_a_random_part_keeps_the_order_and_grows_with_its_size(num_items: int, data, seed: int) -> None:
    items = list(range(num_items))
    fewer, more = sorted(data.draw(st.tuples(st.integers(1, num_items), st.integers(1, num_items))))
    part, larger = (chosen(items, count=count, seed=seed, path="x") for count in (fewer, more))
    assert part == sorted(part)
    assert len(part) == fewer
    assert set(part) <= set(larger)
    assert chosen(items, count=None, seed=seed, path="x") == items


def test_parts_depend_on_the_seed_and_must_be_there(written) -> None:
    path = written(*({"question": f"{number}?", "answer": f"#### {number}"} for number in range(50)))
    parts = [tuple(problem.id for problem in open_gsm8k(path, count=10, seed=seed).problems) for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]
    for count in (0, -1, 51):
        with pytest.raises(InvalidRequest, match=f"count={count} of .*it holds 50; choose 1 to 50"):
            open_gsm8k(path, count=count)


def test_ids_must_differ() -> None:
    twice = (Problem("7", "x"), Problem("7", "y"))
    with pytest.raises(InvalidRequest, match="2 problems have the id '7'"):
        FileSet(name="s", answer_kind="text", max_sample_tokens=1, problems=twice, check=lambda *_: True)
