"""Engines in processes of their own, behind the same protocols: what a server uses in place of an embedded engine."""

from orchestrator.workers.hosted.engine import HostedEngine
from orchestrator.workers.hosted.opening import hosted_by_default, open_engine
from orchestrator.workers.hosted.pacing import Pacing

__all__ = ["HostedEngine", "Pacing", "hosted_by_default", "open_engine"]
