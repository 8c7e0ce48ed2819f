"""Opens an engine: asks the server who it is, what it serves, and whether it continues partial replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import InvalidRequest
from orchestrator.workers.openai.dialect import DIALECTS, Dialect, dialect_of, served_models
from orchestrator.workers.openai.embeddings import OpenAIEmbeddingEngine
from orchestrator.workers.openai.engine import OpenAIEngine
from orchestrator.workers.openai.failures import PromptTooLong, UpstreamFailed
from orchestrator.workers.openai.options import OpenAIOptions, checked_options
from orchestrator.workers.openai.probe import continues
from orchestrator.workers.openai.transport import Transport


async def open_engine(model: str = "", *, clock: Clock | None = None, **options: object) -> OpenAIEngine:
    """An engine for a model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, OpenAI, and others.

        engine = await open_engine("Qwen/Qwen3-8B", base_url="http://127.0.0.1:8000/v1")

    Args:
        model: As the server calls it; may be left out if it serves one.
        clock: Waits between attempts.
        options: See `OpenAIOptions`.

    Returns:
        The engine; with ``embeddings=True`` one that implements `Embeds`.

    Raises:
        InvalidRequest: An option is wrong, or one is needed: which model, or its context length.
        EngineFailed: The server cannot be reached, or refuses the key.
    """
    checked = checked_options({**options, "model": model})
    clock = clock or SystemClock()
    transport = Transport(checked, clock=clock)
    try:
        models = await _models(transport)
        dialect = dialect_of(models, host=transport.host) if checked.dialect == "auto" else DIALECTS[checked.dialect]
        served = _chosen(checked, models)
        context_length = checked.context_length or await _context_length(transport, dialect, served, models)
    finally:
        await transport.aclose()
    if context_length is None:
        raise InvalidRequest(
            f"{transport.host} does not say how long the context of {served!r} is; set context_length",
            field="context_length",
        )
    kind = OpenAIEmbeddingEngine if checked.embeddings else OpenAIEngine

    def opened(*, can_continue: bool) -> OpenAIEngine:
        return kind(
            checked,
            dialect=dialect,
            model=served,
            context_length=context_length,
            can_continue=can_continue,
            clock=clock,
        )

    if not _is_probed(checked, dialect):
        return opened(can_continue=checked.continue_mode == "on" or _always_continues(checked))
    engine = opened(can_continue=True)
    try:
        if await continues(engine):
            return engine
    except BaseException:
        await engine.aclose()
        raise
    await engine.aclose()
    return opened(can_continue=False)


def _always_continues(options: OpenAIOptions) -> bool:
    """Prompts that this side renders go on wherever they stop."""
    return options.api == "completions" and options.continue_mode == "auto"


def _is_probed(options: OpenAIOptions, dialect: Dialect) -> bool:
    if options.continue_mode == "auto":
        return options.api == "chat" and dialect.continue_style != "none"
    return options.continue_mode == "probe"


async def _models(transport: Transport) -> Any:  # Any: JSON value
    """What the server serves; None if it does not tell."""
    attempt = 0
    while True:
        try:
            return await transport.get_json("models")
        except PromptTooLong:
            return None
        except UpstreamFailed as error:
            if error.status in {404, 405, 501}:
                return None
            await transport.pause(attempt, error)
            attempt += 1


def _chosen(options: OpenAIOptions, models: Any) -> str:  # Any: JSON value
    if options.model:
        return options.model
    names = [str(entry.get("id")) for entry in served_models(models)]
    if len(names) == 1:
        return names[0]
    listing = ", ".join(sorted(names)) or "nothing it tells of"
    raise InvalidRequest(f"name the model; the server has: {listing}", field="model")


async def _context_length(
    transport: Transport,
    dialect: Dialect,
    model: str,
    models: Any,  # Any: JSON value
) -> int | None:
    entries = served_models(models)
    entry: Mapping[str, Any] = next((each for each in entries if each.get("id") == model), {})
    if not entry and len(entries) == 1:
        entry = entries[0]
    stated = entry.get("max_model_len")
    if dialect.name == "llama_cpp":
        try:
            stated = (await transport.get_json("/props"))["default_generation_settings"]["n_ctx"]
        except (UpstreamFailed, PromptTooLong, KeyError, TypeError):
            stated = None
    return stated if isinstance(stated, int) and stated >= 2 else None
