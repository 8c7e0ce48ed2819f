from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from orchestrator.api.terminal.results import ResultFile
from orchestrator.errors import InvalidRequest, JobConflict, StoreFailed


def row(number: int) -> dict[str, object]:
    return {"id": str(number), "status": "ok", "answer": "x" * number}


def test_rows_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for number in (1, 2, 3):
        with ResultFile(path) as file:
            assert sorted(file.rows) == [str(earlier) for earlier in range(1, number)]
            file.write(row(number))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row(1), row(2), row(3)]


@pytest.mark.parametrize("cut", range(1, 45, 4))
def test_a_last_line_that_was_cut_is_removed_wherever_it_was_cut(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = [json.dumps(row(number)) for number in (1, 2)]
    path.write_text(f"{whole[0]}\n{whole[1][:cut]}")
    with ResultFile(path) as file:
        has_both = cut >= len(whole[1])
        assert sorted(file.rows) == (["1", "2"] if has_both else ["1"])
        file.write(row(3))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()][-1] == "3"


@pytest.mark.parametrize("content", ["notes", '{"id": 1}\n', "[]\n", '{"id": "1", "status": "ok"}\nnotes\n'])
def test_a_file_of_something_else_is_left_as_it_is(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match="no result of ours"):
        ResultFile(path)
    assert path.read_text() == content


def test_two_processes_do_not_write_the_same_file(tmp_path: Path) -> None:
    with ResultFile(tmp_path / "out"), pytest.raises(JobConflict, match="another process"):
        ResultFile(tmp_path / "out")
    with ResultFile(tmp_path / "out"):
        pass


def test_a_row_that_does_not_fit_leaves_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with ResultFile(path) as file:
        file.write(row(1))
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            with pytest.raises(StoreFailed):
                file.write(row(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
