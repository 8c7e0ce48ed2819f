"""Benchmarks: they run, write both files, and the page is put together from what is stored."""

import json
import sys
from pathlib import Path

import pytest

from orchestrator.bench import controller, report, store
from orchestrator.bench.__main__ import assemble


def test_a_spread_is_median_and_range():
    assert report.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert report.cell({"median": 2.0, "min": 1.0, "max": 3.25}) == "2.00 (1.00 to 3.25)"


def test_a_report_names_machine_and_commit():
    facts = report.machine()
    line = report.machine_line(facts)
    assert facts["commit"] in line
    assert f"{facts['cores']} cores" in line


def test_the_page_holds_what_has_figures_beside_it(tmp_path: Path):
    report.write(tmp_path, "b", {"x": 1}, "# Second\n\nText.\n")
    report.write(tmp_path, "a", {"x": 1}, "# First\n\n## Part\n")
    (tmp_path / "README.md").write_text("# old")
    (tmp_path / "notes.md").write_text("# no figures")
    headings = [line for line in assemble(tmp_path).splitlines() if line.startswith("#")]
    assert headings == ["# Benchmarks", "## First", "### Part", "## Second"]
    assert assemble(tmp_path) == assemble(tmp_path)


async def test_all_jobs_are_in_flight_together_and_all_are_answered():
    figures = await controller.many_at_once(20, "memory:")
    assert figures["num_jobs"] == 20
    assert figures["num_answered_by_majority"] > 10
    assert figures["rss_all_in_flight_mib"] > 0


async def test_every_policy_of_the_controller_bench_runs():
    rows = await controller.Bench(scale=0.01).by_policy()
    assert [row["policy"] for row in rows] == [name for name, _ in controller.POLICIES]
    assert all(row["actions"] >= 1 and row["samples"] >= 1 for row in rows)


def test_the_store_bench_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["store", "--seconds", "0.02", "--out", str(tmp_path)])
    store.main()
    result = json.loads((tmp_path / "store.json").read_text())
    assert set(result["appends_per_s"]["memory"]) == {"1", "16", "256"}
    assert "| memory |" in (tmp_path / "store.md").read_text()
