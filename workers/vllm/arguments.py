"""Our settings as vLLM's engine arguments: a plain mapping, made without vLLM."""

from __future__ import annotations

from typing import Any

from orchestrator.config import SpeculationSettings, VllmSettings

_GIB = 1 << 30
_SAME = (
    "dtype",
    "quantization",
    "max_model_len",
    "max_num_seqs",
    "max_num_queued_reqs",
    "max_num_queued_tokens",
    "block_size",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "enable_prefix_caching",
    "enforce_eager",
    "runner",
)
"""Settings that are engine arguments of the same name."""


def engine_arguments(model: str, settings: VllmSettings) -> dict[str, Any]:  # Any: arguments of many types
    """Arguments for ``AsyncEngineArgs``; `VllmSettings.engine_args` win.

    Every row of log probabilities may be asked for (``max_logprobs=-1``): requests are checked here, not there.
    """
    given: dict[str, Any] = {
        "model": model,
        "scheduling_policy": "priority",
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        "generation_config": "auto",
    }
    given |= {name: value for name in _SAME if (value := getattr(settings, name)) is not None}
    if settings.kv_cache_gib is not None:
        given["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * _GIB)
    if settings.speculation is not None:
        given["speculative_config"] = speculative_config(settings.speculation)
    return given | settings.engine_args


def speculative_config(settings: SpeculationSettings) -> dict[str, Any]:  # Any: as vLLM takes it
    """``speculative_config``; a table of draft lengths by batch size becomes vLLM's, with its longest as the limit."""
    config: dict[str, Any] = {"method": settings.method, "num_speculative_tokens": settings.num_tokens}
    if settings.model:
        config["model"] = settings.model
    if settings.by_batch:
        config["num_speculative_tokens_per_batch_size"] = [list(row) for row in settings.by_batch]
        config["num_speculative_tokens"] = max(settings.num_tokens, *(row[2] for row in settings.by_batch))
    return config | settings.options
