"""What a client of OpenAI's API wants, whichever of its endpoints it used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.api.service.openai.bodies import TtcOptions
from orchestrator.api.service.requests import MessageBody
from orchestrator.reply_form import ToolOffer

JSON_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of a reply that may be any JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A reply that is wanted; None is what was left open.

    Attributes:
        model: As the client named it.
        messages: The conversation; a last one by the assistant is to be continued.
        ttc: The object ``ttc``.
        effort: ``reasoning_effort``.
        max_tokens: Most tokens of each candidate.
        n: Choices.
        stop: Strings before which a reply ends.
        temperature, top_p, top_k, min_p: Sampling.
        seed: Any whole number of 64 bits.
        top_logprobs: So many likeliest tokens beside each token's log probability; None for no log probabilities.
        json_schema: Of the reply.
        tools: What the model may ask for.
        labels: Kept with the job, beside those in ``ttc``.
    """

    model: str
    messages: tuple[MessageBody, ...]
    ttc: TtcOptions = field(default_factory=TtcOptions)
    effort: str | None = None
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    json_schema: dict[str, Any] | None = None  # Any: JSON Schema
    tools: ToolOffer | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def has_sampling(self) -> bool:
        """Whether it says how tokens are to be chosen."""
        return any(value is not None for value in (self.temperature, self.top_p, self.top_k, self.min_p))
