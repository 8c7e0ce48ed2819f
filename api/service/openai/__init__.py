"""OpenAI's API over the service: chat completions, models, responses."""

from orchestrator.api.service.openai import chat, responses

ROUTERS = (chat.router, responses.router)
"""Of all its endpoints."""

__all__ = ["ROUTERS"]
