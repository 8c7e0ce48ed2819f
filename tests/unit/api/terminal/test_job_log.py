"""Records in the log of a job come back once, in order, whatever else is in the log and however it is cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.terminal.job_log import PIECE_CHARS, JobLogReader, JobLogWriter
from orchestrator.errors import StoreFailed

JOB = "ttc-0123456789abcdef"


def written(records: list[dict[str, Any]], path: Path) -> list[str]:
    """The lines that each record takes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
    try:
        writer, texts = JobLogWriter(JOB, fd=fd), []
        length = 0
        for record in records:
            writer.write(record)
            texts.append(path.read_bytes()[length:].decode())
            length += len(texts[-1])
        return texts
    finally:
        os.close(fd)


def rows_of(items: list[Any]) -> list[Any]:
    return [item["row"] for item in items if isinstance(item, dict)]


@given(data=st.data())
def test_records_survive_other_text_and_any_cut(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=40)
    rows = data.draw(st.lists(st.fixed_dictionaries({"id": texts, "text": texts}), max_size=5))
    others = st.text(alphabet="ab:1 \r\n\x1b[", max_size=20)
    log = ""
    for text in written(rows, tmp_path_factory.getbasetemp() / "log"):
        log += data.draw(others) + text
    log += data.draw(others)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=6)))
    reader, items = JobLogReader(JOB), []
    for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        items += list(reader.take(log[start:end]))
    assert rows_of(items) == rows


def test_a_long_record_is_cut_into_lines_that_are_not(tmp_path: Path) -> None:
    (text,) = written([{"id": "1", "text": "x" * 300_000}], tmp_path / "log")
    assert max(map(len, text.splitlines())) < PIECE_CHARS + 100
    assert rows_of(list(JobLogReader(JOB).take(text))) == [{"id": "1", "text": "x" * 300_000}]


def test_a_record_that_a_killed_process_left_unfinished_is_none(tmp_path: Path) -> None:
    whole, torn = written([{"id": "1"}, {"id": "2", "text": "x" * 50_000}], tmp_path / "log")
    first_pieces = "".join(line + "\n" for line in torn.splitlines()[:2])
    for rest in (first_pieces, torn[:-1], first_pieces + whole):
        assert [row["id"] for row in rows_of(list(JobLogReader(JOB).take(whole + rest)))] in (["1"], ["1", "1"])


@pytest.mark.parametrize(
    "line",
    [
        '::ttc ttc-ffffffffffffffff 0 1/1 {"kind": "row", "row": {"id": "1", "status": "ok"}}',
        f'::ttc {JOB} x 1/1 {{"kind": "row"}}',
        f"::ttc {JOB} 0 1/1 [1, 2]",
        f"::ttc {JOB} 0 1/1 not JSON",
        f"::ttc {JOB} 0 2/2 }}",
        f"::ttc {JOB} 0 1/0 {{}}",
        f"::ttc {JOB} 0 1/1 " + "[" * 100_000,
    ],
)
def test_what_only_looks_like_a_record_is_none(line: str) -> None:
    assert [item for item in JobLogReader(JOB).take(line + "\n") if isinstance(item, dict)] == []


def test_other_lines_lose_what_colours_them(tmp_path: Path) -> None:
    (text,) = written([{"id": "1"}], tmp_path / "log")
    items = list(JobLogReader(JOB).take(f"\x1b[36m(pid=7)\x1b[0m hello\r\nno end{text}"))
    assert items[:2] == ["(pid=7) hello", "no end"]
    assert rows_of(items) == [{"id": "1"}]


def test_a_full_disk_is_an_error_of_the_store() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(StoreFailed, match="No space left"):
            JobLogWriter(JOB, fd=fd).write({"id": "1"})
    finally:
        os.close(fd)
