"""The speed of the lab's models: figures of a short run, and what happens without the models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")

from orchestrator.bench.lab import speed

pytestmark = pytest.mark.model


def test_a_short_run_has_figures_for_every_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["speed", "--models", "draft", "--repetitions", "1", "--seconds", "0.01", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    speed.main()
    draft = json.loads((tmp_path / "lab_speed.json").read_text(encoding="utf-8"))["models"]["draft"]
    assert list(draft["tokens_per_s"]) == ["1", "8", "16", "32", "direct"]
    assert all(rate["median"] > 0 for rates in draft.values() for rate in rates.values())
    page = (tmp_path / "lab_speed.md").read_text(encoding="utf-8")
    assert page.count("| draft |") == 5


def test_without_the_files_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", "--out", str(tmp_path)])
    monkeypatch.setattr(speed, "weights_path", lambda name: tmp_path / f"{name}.gguf")
    speed.main()
    assert "skipped: there is no" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
