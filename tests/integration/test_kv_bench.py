"""The benchmark of KV sharing, on one problem: it runs, goes on where it was, and says what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")

from orchestrator.bench import kv_sharing

pytestmark = pytest.mark.model


def test_it_runs_every_arm_and_does_not_repeat_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    words = ["--problems", "1", "--sets", "countdown", "--policies", "rebase", "--width", "8", "--cap", "64"]
    monkeypatch.setattr(sys, "argv", ["kv_sharing", *words, "--rows", str(rows), "--out", str(tmp_path)])
    kv_sharing.main()
    kept = rows.read_text(encoding="utf-8")
    kv_sharing.main()
    assert rows.read_text(encoding="utf-8") == kept
    found = json.loads((tmp_path / "kv_sharing.json").read_text(encoding="utf-8"))
    by_arm = {row["arm"]: row for row in found["means"]}
    assert by_arm["unshared"]["read_tokens"] > by_arm["shared"]["read_tokens"]
    assert by_arm["shared"]["recomputed_tokens"] == 0
    assert by_arm["capped"]["peak_kv_cells"] <= 64
    assert "rebase" in (tmp_path / "kv_sharing.md").read_text(encoding="utf-8")
