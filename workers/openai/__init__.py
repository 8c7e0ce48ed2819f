"""Engine for models behind OpenAI-compatible servers.

from orchestrator.workers.openai import open_engine

engine = await open_engine("Qwen/Qwen3-8B", base_url="http://127.0.0.1:8000/v1")
"""

from orchestrator.workers.openai.embeddings import OpenAIEmbeddingEngine
from orchestrator.workers.openai.engine import OpenAIEngine
from orchestrator.workers.openai.opening import open_engine
from orchestrator.workers.openai.options import OpenAIOptions

__all__ = ["OpenAIEmbeddingEngine", "OpenAIEngine", "OpenAIOptions", "open_engine"]
