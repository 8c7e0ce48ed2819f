"""One subcommand of ``ttc`` per module; found through the entry points ``orchestrator.commands``."""
