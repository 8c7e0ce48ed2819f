"""Checkpoints: files that training leaves, and committed weights that it goes on from."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from orchestrator.bench.lab.model import Llama, Size


def save(model: Llama, path: Path, facts: dict[str, Any]) -> None:  # Any: JSON values
    """Writes weights (float32) and what is known of them, so that a reader never sees half a file."""
    partial = path.with_suffix(".partial")
    weights = {name: weight.detach().float().cpu().clone() for name, weight in model.state_dict().items()}
    torch.save({"size": asdict(model.size), "weights": weights, "facts": facts}, partial)
    partial.replace(path)


def load_file(path: Path, device: str = "cpu") -> tuple[Llama, dict[str, Any]]:  # Any: JSON values
    """A saved model and what is known of it."""
    stored = torch.load(path, map_location=device, weights_only=True)
    model = Llama(Size(**stored["size"])).to(device)
    model.load_state_dict(stored["weights"])
    return model, stored["facts"]


def load(folder: Path, name: str, device: str = "cpu") -> tuple[Llama, dict[str, Any]]:  # Any: JSON values
    """A model in a folder, as training (``NAME.pt``) or `export` (``NAME/model.safetensors``) left it."""
    if (path := folder / f"{name}.pt").exists():
        return load_file(path, device)
    if not (folder / name / "model.safetensors").exists():
        sys.exit(f"there is neither {name}.pt nor {name}/model.safetensors in {folder}; train {name} first")
    from orchestrator.bench.lab.hugging_face import read_safetensors

    model, facts = read_safetensors(folder / name)
    return model.to(device), facts
