"""The lab's models by name, and where their files are; needs nothing but this package."""

from __future__ import annotations

from pathlib import Path

GENERATORS = ("draft", "small", "large")
REWARD_MODEL = "prm"
WEIGHTS = Path(__file__).with_name("weights")


def weights_path(name: str) -> Path:
    """The GGUF file of a model of this lab."""
    return WEIGHTS / f"{name}.gguf"
