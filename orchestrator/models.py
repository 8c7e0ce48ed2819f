"""Opens a model from the text by which people name it: ``NAME``, ``PATH.gguf`` or ``ENGINE:TARGET``."""

from __future__ import annotations

import inspect

from orchestrator import registry
from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest

DEFAULT_ENGINE = "llama_cpp"


def split_model(text: str) -> tuple[str, str]:
    """The engine and its target, for instance ``("openai", "gpt-4o@https://host/v1")``.

    Raises:
        InvalidRequest: The text is empty.
    """
    if not text.strip():
        raise InvalidRequest("the model's name is empty; see: ttc models list", field="model", value=text)
    engine, separator, target = text.partition(":")
    if separator and engine in registry.names("engine"):
        return engine, target
    return DEFAULT_ENGINE, text


async def open_model(text: str, *, settings: Settings) -> Engine:
    """The engine that serves the model.

    Each engine's entry point is ``async def open_model(target: str, settings: Settings) -> Engine``.

    Raises:
        UnknownName: No such model.
        ModelUnavailable: Its weights are not here, or cannot be read.
        MissingDependency: The engine's package is not installed.
    """
    name, target = split_model(text)
    opened = registry.load("engine", name)(target, settings)
    engine: Engine = await opened if inspect.isawaitable(opened) else opened
    return engine
