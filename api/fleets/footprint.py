"""What a model of a fleet takes and can do, as far as it is known without opening it.

From the header of a GGUF file, the ``config.json`` of a folder, the catalogue, or the shapes of public models.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from orchestrator import registry
from orchestrator.config import Settings
from orchestrator.errors import ModelUnavailable
from orchestrator.fleet_file import ModelEntry
from orchestrator.models import split_model
from orchestrator.planning.shapes import presets, read_config
from orchestrator.workers.catalogue import Catalogue
from orchestrator.workers.catalogue.gguf_header import read_gguf_header

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt")


class Where(StrEnum):
    """Where a model's weights are."""

    HERE = "here"
    TO_PULL = "to be pulled"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A model.

    Attributes:
        where: Where its weights are; elsewhere for those that a server keeps, or that have none.
        weight_bytes: What they take in memory; None if it is not known.
        kv_bytes_per_token: Keys and values of a token; None if they are not known.
        context: Most tokens of a sequence; 0 if it is not known.
        vocabulary: Fingerprint of its tokens; empty if it is not known.
        writes: Whether it can generate text.
    """

    where: Where
    weight_bytes: float | None = None
    kv_bytes_per_token: float | None = None
    context: int = 0
    vocabulary: str = ""
    writes: bool = True


def footprint(entry: ModelEntry, settings: Settings) -> Footprint:
    """The footprint of one replica's model.

    Args:
        entry: The model.
        settings: The configuration with its engine arguments.

    Raises:
        UnknownName, ModelUnavailable, InvalidRequest: There is no such model, or its files cannot be used.
    """
    return _of_text(entry.model, settings)


def _of_text(model: str, settings: Settings) -> Footprint:
    engine, target = split_model(model)
    match engine:
        case "hosted":
            return _of_text(target, settings)
        case "llama_cpp":
            return _gguf_named(target)
        case "vllm":
            found = _checkpoint(target)
            is_judge = settings.vllm.runner == "pooling" or settings.vllm.step_tag is not None
            longest = settings.vllm.max_model_len or found.context
            return replace(found, writes=not is_judge, context=longest)
        case "reward":
            return Footprint(where=Where.ELSEWHERE, writes=False)
        case _:
            return _of_opener(engine, target)


def _of_opener(engine: str, target: str) -> Footprint:
    """Of an engine that is not ours: its entry point's module may have ``weights_of(target)``, a GGUF file's path."""
    opener = registry.load("engine", engine)
    weights_of = getattr(sys.modules[opener.__module__], "weights_of", None)
    return Footprint(where=Where.ELSEWHERE) if weights_of is None else _gguf(weights_of(target))


def _gguf_named(target: str) -> Footprint:
    catalogue = Catalogue.from_environment()
    try:
        return _gguf(catalogue.resolve(target).path)
    except ModelUnavailable:
        known = {entry.name: entry for entry in catalogue}
        if target not in known or catalogue.is_pulled(target):
            raise
        return Footprint(
            where=Where.TO_PULL, weight_bytes=known[target].size_bytes, context=known[target].context_length
        )


def _gguf(path: Path) -> Footprint:
    header = read_gguf_header(path)
    return Footprint(
        where=Where.HERE,
        weight_bytes=header.file_bytes,
        kv_bytes_per_token=header.cost.kv_bytes_per_token,
        context=header.context_length,
        vocabulary=header.vocabulary,
        writes=not header.rewards_steps,
    )


def _checkpoint(target: str) -> Footprint:
    """A model in the form of transformers: a folder, or a name on a hub."""
    folder = Path(target).expanduser()
    if folder.is_dir():
        return _folder(folder)
    if target.startswith(("/", "./", "~")):
        raise ModelUnavailable(f"no model folder at {target!r}", model=target)
    cached = _hub_folder(target)
    if cached is not None:
        return _folder(cached)
    shape = next((shape for shape in presets().values() if shape.source == f"vllm:{target}"), None)
    if shape is None:
        return Footprint(where=Where.TO_PULL)
    return Footprint(
        where=Where.TO_PULL,
        weight_bytes=shape.memory_bytes,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        context=shape.context,
    )


def _folder(folder: Path) -> Footprint:
    shape = read_config(folder)
    on_disk = next((size for pattern in _WEIGHT_FILES if (size := _size_of(folder, pattern))), 0)
    return Footprint(
        where=Where.HERE,
        weight_bytes=on_disk or shape.memory_bytes,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        context=shape.context,
        vocabulary=_tokenizer_of(folder),
    )


def _size_of(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file())


def _tokenizer_of(folder: Path) -> str:
    file = folder / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _hub_folder(name: str) -> Path | None:
    """The newest copy of a model in the hub's cache on this machine."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or Path(home) / "hub"
    copies = Path(cache) / f"models--{name.replace('/', '--')}" / "snapshots"
    found = [copy for copy in copies.glob("*") if (copy / "config.json").is_file()]
    return max(found, key=lambda copy: copy.stat().st_mtime, default=None)
