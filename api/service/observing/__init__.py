"""What operators see: metrics, traces, structured logs; observers of jobs and of requests."""

from orchestrator.api.service.observing.context import trace_labels
from orchestrator.api.service.observing.installing import Observing
from orchestrator.api.service.observing.logs import log_as_json
from orchestrator.api.service.observing.metrics import Metrics, forget_process, shared_between_processes

__all__ = ["Metrics", "Observing", "forget_process", "log_as_json", "shared_between_processes", "trace_labels"]
