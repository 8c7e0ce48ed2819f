"""How many parameters a model has, from the headers of its weights; nothing is loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path

_MOST_HEADER_BYTES = 100_000_000
"""The format's own limit."""


def num_parameters(model: str) -> int:
    """Numbers in its safetensors files; 0 if they are not in a folder here, or not of that format.

    Args:
        model: A folder, or a name whose files the hub's cache holds.
    """
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else _in_cache(model)
    try:
        return sum(_in_file(file) for file in files)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return 0


def _in_cache(model: str) -> Iterable[Path]:
    from vllm.transformers_utils.repo_utils import get_model_path

    try:
        return sorted(Path(get_model_path(model)).glob("*.safetensors"))
    except (OSError, ValueError):
        return ()


def _in_file(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MOST_HEADER_BYTES:
            raise ValueError("no header of safetensors")
        header = json.loads(file.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
