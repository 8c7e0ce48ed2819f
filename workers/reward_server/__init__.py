"""Engine for process reward models behind HTTP: vLLM's pooling models, step-tag models, and servers of one's own.

from orchestrator.workers.reward_server import open_engine

engine = await open_engine("http://127.0.0.1:8000", form="pooling")
"""

from orchestrator.workers.reward_server.engine import RewardServerEngine
from orchestrator.workers.reward_server.opening import open_engine
from orchestrator.workers.reward_server.options import RewardServerOptions

__all__ = ["RewardServerEngine", "RewardServerOptions", "open_engine"]
