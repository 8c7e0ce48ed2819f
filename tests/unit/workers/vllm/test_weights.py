"""Parameters, counted from headers."""

from __future__ import annotations

from pathlib import Path

from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.workers.vllm.weights import num_parameters


def test_the_numbers_in_a_folder_are_counted():
    size = (WEIGHTS / "draft" / "model.safetensors").stat().st_size
    assert 0.9 * size / 2 < num_parameters(str(WEIGHTS / "draft")) < size / 2


def test_what_cannot_be_read_counts_as_unknown(tmp_path: Path):
    assert num_parameters(str(tmp_path)) == 0
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert num_parameters(str(tmp_path)) == 0
    (tmp_path / "model.safetensors").write_bytes(b"\x02")
    assert num_parameters(str(tmp_path)) == 0
