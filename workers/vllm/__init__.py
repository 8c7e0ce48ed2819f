"""The vLLM engine: models on accelerators, or on its CPU build, with vLLM's front in this process and its core beside."""

from orchestrator.workers.vllm.opening import open_engine, open_vllm

__all__ = ["open_engine", "open_vllm"]
