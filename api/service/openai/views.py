"""What clients of OpenAI's API get, as pydantic models for the OpenAPI document; responses are made as plain JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Json = dict[str, Any]  # Any: JSON values
STREAM: Json = {"text/event-stream": {"schema": {"type": "string"}}}
"""The other form in which replies are sent, for the OpenAPI document."""


class _View(BaseModel):
    model_config = ConfigDict(extra="allow")


class ModelView(_View):
    """A model that can be named in a request."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(_View):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class MessageView(_View):
    """What was said."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[Json] = []


class ChoiceView(_View):
    """One reply."""

    index: int
    message: MessageView
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: Json | None
    ttc: Json


class ChatView(_View):
    """A chat completion; `ttc` says what the job behind it did."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceView]
    usage: Json
    ttc: Json


class ResponseView(_View):
    """A response; `ttc` says what the job behind it did."""

    id: str
    object: Literal["response"]
    created_at: float
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[Json]
    usage: Json | None
    error: Json | None
    incomplete_details: Json | None
    ttc: Json | None
