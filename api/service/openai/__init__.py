"""OpenAI's API over the service: chat completions, models, responses."""

from orchestrator.api.service.openai.router import router

__all__ = ["router"]
