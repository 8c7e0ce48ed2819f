"""Opens models in vLLM: from a name or a folder to the engine with exactly the protocols that the model has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import Settings, VllmSettings
from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import Capability, ModelDescription
from orchestrator.errors import InvalidRequest, ModelUnavailable
from orchestrator.workers.vllm.core import Core
from orchestrator.workers.vllm.engine import VllmEngine
from orchestrator.workers.vllm.generator import VllmGenerator
from orchestrator.workers.vllm.pooling import VllmEmbedder
from orchestrator.workers.vllm.prompts import PromptReader
from orchestrator.workers.vllm.rewards import StepTag, VllmAnsweringJudge, VllmClassifyingJudge
from orchestrator.workers.vllm.vocabulary import Vocabulary
from orchestrator.workers.vllm.weights import num_parameters

if TYPE_CHECKING:
    from vllm.config import ModelConfig

_LOG = logging.getLogger(__name__)
_CLASSIFIERS_TAG = "<extra_0>"
"""Of Qwen2.5-Math-PRM (Zhang et al., 2025, arXiv:2501.07301)."""
_WRITING = frozenset(
    {
        Capability.CONTINUE,
        Capability.LOGPROBS,
        Capability.GRAMMAR,
        Capability.SEEDS,
        Capability.STRICT_COUNTS,
    }
)


async def open_vllm(target: str, settings: Settings) -> VllmEngine:
    """A model in vLLM; ``target`` is a folder, or a name on the Hugging Face hub.

    Raises:
        InvalidRequest: No model is named, or a setting cannot be used.
        MissingDependency: vLLM is not installed.
        ModelUnavailable: There is no such model, or it cannot be read.
        EngineFailed: vLLM could not start it.
    """
    if not target.strip():
        raise InvalidRequest("name a model or a folder: vllm:Qwen/Qwen2.5-1.5B-Instruct", field="model", value=target)
    return await open_engine(target, settings.vllm)


async def open_engine(model: str, settings: VllmSettings | None = None, *, name: str | None = None) -> VllmEngine:
    """Starts vLLM with a model.

    Args:
        model: A folder, or a name on the hub.
        settings: How; vLLM's defaults for what is left out.
        name: What the fleet calls it; the folder's or the model's name by default.

    Raises:
        InvalidRequest, MissingDependency, ModelUnavailable, EngineFailed: As `open_vllm`.
    """
    settings = settings or VllmSettings()
    if model.startswith(("/", "./", "../", "~")) and not await asyncio.to_thread(Path(model).is_dir):
        raise ModelUnavailable(
            f"there is no folder {model!r}; name a folder of weights or a model on the hub", name=model
        )
    shown = name or Path(model).name or model
    core = await Core.start(model, settings, name=shown)
    try:
        return await asyncio.to_thread(_engine, core, model, settings, shown)
    except BaseException:
        await core.aclose()
        raise


def _engine(core: Core, model: str, settings: VllmSettings, name: str) -> VllmEngine:
    config = core.llm.model_config
    prompts = _prompts(core, name)
    writes = "generate" in core.tasks
    description = ModelDescription(
        name=name,
        engine="vllm",
        context_length=int(config.max_model_len),
        cost=_cost(core, model, settings),
        tokenizer=prompts.vocabulary.fingerprint,
        capabilities=_WRITING if writes else frozenset(),
    )
    cache = core.llm.vllm_config.cache_config
    kv_cells = int((cache.num_gpu_blocks or 0) * cache.block_size)
    if writes:
        if settings.step_good is None:
            return VllmGenerator(core, prompts, description=description, kv_cells=kv_cells)
        tag = _step_tag(prompts.vocabulary, settings)
        return VllmAnsweringJudge(core, prompts, description=description, kv_cells=kv_cells, step_tag=tag)
    if "token_classify" in core.tasks:
        text = settings.step_tag or _CLASSIFIERS_TAG
        return VllmClassifyingJudge(
            core,
            prompts,
            description=description,
            kv_cells=kv_cells,
            tag=_one_token(prompts.vocabulary, "step_tag", text),
            good_class=settings.good_class,
        )
    if "embed" in core.tasks:
        return VllmEmbedder(core, prompts, description=description, kv_cells=kv_cells)
    raise InvalidRequest(
        f"model {name!r} can only {', '.join(sorted(core.tasks)) or 'nothing'} in vLLM, which nothing here asks for",
        field="model",
        value=model,
    )


def _prompts(core: Core, name: str) -> PromptReader:
    tokenizer: Any = core.llm.get_tokenizer()  # Any: of several kinds
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelUnavailable(
            f"model {name!r} has no tokenizer.json; set engine_args tokenizer_mode to hf, or add one", name=name
        )
    vocabulary = Vocabulary(backend.to_str(), model=name, end_ids=_end_ids(tokenizer, core.llm.model_config))
    around = tokenizer("", add_special_tokens=True)["input_ids"]
    start = around[:1] if around and around[0] == tokenizer.bos_token_id else []
    return PromptReader(vocabulary, tokenizer, start=start)


def _end_ids(tokenizer: Any, config: ModelConfig) -> set[int]:  # Any: of several kinds
    """Tokens at which vLLM ends a sample by itself."""
    stated = config.try_get_generation_config().get("eos_token_id")
    listed: Iterable[int | None] = stated if isinstance(stated, list) else [stated]
    return {int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None}


def _step_tag(vocabulary: Vocabulary, settings: VllmSettings) -> StepTag:
    assert settings.step_tag is not None, "settings are consistent"
    assert settings.step_good is not None, "settings are consistent"
    assert settings.step_bad is not None, "settings are consistent"
    tag = vocabulary.encode(settings.step_tag, parses_special=settings.step_tag in vocabulary.special_texts)
    good, bad = (
        _one_token(vocabulary, field, text)
        for field, text in (("step_good", settings.step_good), ("step_bad", settings.step_bad))
    )
    return StepTag(tuple(tag), good, bad)


def _one_token(vocabulary: Vocabulary, field: str, text: str) -> int:
    token = vocabulary.only_id(text)
    if token is None:
        raise InvalidRequest(
            f"{field} {text!r} must be one token of the model; set vllm.{field} to what it was trained with",
            field=field,
            value=text,
        )
    return token


def _cost(core: Core, model: str, settings: VllmSettings) -> ModelCost:
    config, text = core.llm.model_config, core.llm.model_config.hf_text_config
    heads, layers = int(text.num_attention_heads), int(text.num_hidden_layers)
    head_width = int(config.get_head_size())
    return ModelCost(
        parameters=num_parameters(model),
        attention_width=heads * head_width * layers,
        kv_width=int(config.get_total_num_kv_heads()) * head_width * layers,
        kv_bytes_per_element=max(1, int(config.dtype.itemsize)),
        prices=TokenPrices(
            prompt_usd=settings.prompt_usd,
            output_usd=settings.output_usd,
            cached_prompt_usd=settings.cached_prompt_usd,
        ),
    )
