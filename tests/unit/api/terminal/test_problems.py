from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.api.terminal.problems import is_json_lines, read_problems


@pytest.mark.parametrize(
    ("row", "text", "reference"),
    [
        ({"question": "Q", "answer": "so 3 * 4 = <<3*4=12>>12\n#### 1,200"}, "Q", "1,200"),
        ({"problem": "P", "solution": "...", "answer": "\\frac{1}{2}", "unique_id": "x"}, "P", "\\frac{1}{2}"),
        ({"prompt": "P", "reference": 7}, "P", "7"),
        ({"input": "I", "target": 2.5}, "I", "2.5"),
        ({"problem": "P", "question": "Q", "answer": None}, "P", None),
        ({"problem": "P", "answer": True}, "P", None),
        ("just text", "just text", None),
    ],
)
def test_rows_of_many_shapes_are_read(row: object, text: str, reference: str | None, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (problem,) = read_problems(str(path))
    assert (problem.text, problem.reference, problem.error) == (text, reference, None)


def test_lines_keep_their_numbers_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('\ufeff{"id": "a", "problem": "1"}\n\nnonsense\n{"problem": "2"}\n{"id": "a", "problem": "3"}')
    problems = read_problems(str(path))
    assert [(problem.id, problem.line, problem.text) for problem in problems] == [
        ("a", 1, "1"),
        ("3", 3, None),
        ("4", 4, "2"),
        ("a (line 5)", 5, None),
    ]


def test_a_suffix_says_that_there_are_many() -> None:
    assert is_json_lines("x.JSONL", is_forced=False)
    assert is_json_lines("x.ndjson", is_forced=False)
    assert not is_json_lines("x.json", is_forced=False)
    assert is_json_lines(None, is_forced=True)
