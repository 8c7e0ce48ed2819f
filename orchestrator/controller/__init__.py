"""The controller: carries out what policies ask for, pays for it, writes it down, and always ends with a result."""

from orchestrator.controller.context import RunContext
from orchestrator.controller.recorder import Recorder
from orchestrator.controller.run import JobRun

__all__ = ["JobRun", "Recorder", "RunContext"]
