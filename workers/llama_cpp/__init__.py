"""The embedded engine: quantised models through llama.cpp, in this process."""

from orchestrator.workers.llama_cpp.engine import LlamaCppEngine
from orchestrator.workers.llama_cpp.opening import open_engine

__all__ = ["LlamaCppEngine", "open_engine"]
