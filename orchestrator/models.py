"""Opens models from the texts by which people name them, ``NAME``, ``PATH.gguf`` or ``ENGINE:TARGET``, and fleets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

from orchestrator import registry
from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest
from orchestrator.fleet import Fleet

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


async def open_fleet(wanted: Mapping[str, str | Path | Engine], *, settings: Settings, opened: list[Engine]) -> Fleet:
    """The fleet in which each role has the model that is wanted for it; a model named twice is opened once.

    Args:
        wanted: Role to a model's name, its path, or an engine.
        settings: The configuration.
        opened: Is given each engine that is opened here, also when a later one fails; the caller closes them.

    Raises:
        InvalidRequest: Something wanted is no model.
        UnknownName, ModelUnavailable, MissingDependency: As `open_model` does.
    """
    engines: dict[str, Engine] = {}
    roles: dict[str, str] = {}
    by_spec: dict[str, str] = {}
    for role, model in wanted.items():
        if isinstance(model, str | Path):
            name = by_spec.get(str(model))
            if name is None:
                engine = await open_model(str(model), settings=settings)
                opened.append(engine)
                name = by_spec[str(model)] = free_name(engine.describe().name, engines)
                engines[name] = engine
        else:
            name = next((known for known, engine in engines.items() if engine is model), None)
            if name is None:
                if not isinstance(model, Engine):
                    raise InvalidRequest(
                        f"{role} must be a model's name, a path or an engine, not {model!r:.100}", field=role
                    )
                name = free_name(model.describe().name, engines)
                engines[name] = model
        roles[role] = name
    return Fleet(engines, roles)


def free_name(name: str, taken: Mapping[str, Engine]) -> str:
    """The name, with a number if it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free
