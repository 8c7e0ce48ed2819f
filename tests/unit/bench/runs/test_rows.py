"""Files of rows: compressed ones, lines that were cut off, settings of a grid as points of a curve."""

from __future__ import annotations

import lzma
from pathlib import Path

from orchestrator.bench.runs.rows import Row, append_rows, by_curves, read_rows


def a_row(label: str, *, budget: str = "tokens=100") -> Row:
    return Row(suite="s", set="x", problem="p1", label=label, model="m", budget=budget, seed=1, policy="rebase")


def test_a_compressed_file_is_read_like_any_other(tmp_path: Path) -> None:
    plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.xz"
    rows = [a_row("a"), a_row("b")]
    append_rows(plain, rows)
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    assert list(read_rows(packed)) == list(read_rows(plain)) == rows


def test_a_line_that_was_cut_off_is_left_out_and_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [a_row("a")])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"suite": "s", "se')
    assert list(read_rows(path)) == [a_row("a")]
    append_rows(path, [a_row("b")])
    assert list(read_rows(path)) == [a_row("a"), a_row("b")]


def test_settings_of_a_grid_become_points_of_one_curve() -> None:
    labels = ["rebase(width=8)", "weighted best_of_n(n=16)", "single", "ets(width=8, lambda_b=2)"]
    found = [(row.label, row.budget) for row in by_curves(map(a_row, labels))]
    assert found == [
        ("rebase", "setting 8"),
        ("weighted best_of_n", "setting 16"),
        ("single", "tokens=100"),
        ("ets(width=8, lambda_b=2)", "tokens=100"),
    ]
