"""The lab: tiny models for the tasks of `orchestrator.bench.tasks`, trained here and run like any other model."""
