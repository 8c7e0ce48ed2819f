"""The vLLM engine: vLLM's front in this process, its core with the model in another; on accelerators or the CPU."""

from orchestrator.workers.vllm.opening import open_engine, open_vllm

__all__ = ["open_engine", "open_vllm"]
