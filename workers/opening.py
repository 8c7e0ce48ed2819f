"""Entry points of the engines: from the text that names a model, and the configuration, to an open engine."""

from __future__ import annotations

import asyncio

from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest
from orchestrator.testing import scripted


async def open_llama_cpp(target: str, settings: Settings) -> Engine:
    """A GGUF model in this process; ``target`` is a catalogue name or a file."""
    from orchestrator.workers.catalogue import Catalogue
    from orchestrator.workers.llama_cpp import open_engine

    model = await asyncio.to_thread(Catalogue.from_environment().resolve, target)
    given = settings.llama_cpp.model_dump(exclude_none=True)
    return await open_engine(model.path, name=model.name, **given)


async def open_openai(target: str, settings: Settings) -> Engine:
    """A model behind a server; ``target`` is ``MODEL`` or ``MODEL@URL``.

    The configured key goes to the configured address only: a URL in ``target`` gets it only if it is that address.
    """
    from orchestrator.workers.openai import open_engine

    model, _, address = target.partition("@")
    base_url = address or settings.openai.base_url
    if not model or not base_url:
        raise InvalidRequest(
            f"cannot read the model {target!r}; write openai:MODEL@http://HOST:PORT/v1, or set TTC_OPENAI__BASE_URL",
            field="model",
            value=target,
        )
    key = settings.openai.api_key
    may_send_key = key is not None and base_url == settings.openai.base_url
    api_key = key.get_secret_value() if key is not None and may_send_key else None
    options = settings.openai.options
    return await open_engine(model, base_url=base_url, api_key=api_key, **options)


async def open_scripted(target: str, settings: Settings) -> Engine:  # noqa: ARG001  # the signature of an entry point
    """A script that plays a model; see `orchestrator.testing.scripted`."""
    return await scripted.open_engine(target or "arithmetic")
