"""Entry point of the lab's models: ``lab:small`` wherever a model is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.bench.lab.model_names import GENERATORS, REWARD_MODEL, weights_path
from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import UnknownName

_DEFAULTS: dict[str, Any] = {"num_threads": 1, "context_cells": 16384, "max_sequences": 16}  # Any: numbers and flags
"""These models are so small that a second thread waits more than it works, and that what sequences beyond 16 gain in
batching they lose in attention: a step looks at the cells of all of them, its own or masked."""


async def open_lab(target: str, settings: Settings) -> Engine:
    """A model of the lab in the embedded engine.

    Raises:
        UnknownName: There is none of that name.
    """
    from orchestrator.workers.llama_cpp import open_engine

    weights = weights_of(target)
    given = settings.llama_cpp.model_dump(exclude_none=True, exclude_unset=True)
    return await open_engine(weights, name=target, **{**_DEFAULTS, **given})


def weights_of(target: str) -> Path:
    """The GGUF file of a model; ``ttc fleet check`` reads its header.

    Raises:
        UnknownName: There is none of that name.
    """
    names = (*GENERATORS, REWARD_MODEL)
    if target not in names:
        raise UnknownName(kind="model of the lab", name=target, known=names)
    return weights_path(target)
