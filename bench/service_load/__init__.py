"""The parts of the service's benchmark: servers that are measured, load for them, a model server, and memory."""
