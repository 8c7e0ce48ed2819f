"""The doors: the command line, REST, the OpenAI-compatible endpoint, the dashboard."""
