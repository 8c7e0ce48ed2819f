"""OpenAI's API over the service: chat completions and models (`chat`), responses (`responses`)."""
