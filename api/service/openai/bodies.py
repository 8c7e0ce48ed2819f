"""What requests to both of OpenAI's endpoints have in common, as pydantic models, and what of it is refused.

Null means "not given". Fields that OpenAI defines are either honoured, ignored because they cannot change an answer
(`IGNORED`), or refused with a reason; all others are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from orchestrator.api.service.requests import BudgetBody, Flag, Real, SamplingBody, Whole
from orchestrator.job import MAX_PROBLEM_CHARS

IGNORED = (
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
)
"""Fields of a chat request that are accepted and make no difference."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=MAX_PROBLEM_CHARS)]
Label = Annotated[str, Field(max_length=256)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Json = dict[str, Any]  # Any: JSON values


class Body(BaseModel):
    """A part of a request; nulls are left out, fields that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:  # Any: JSON value
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data


def only(neutral: Any, why: str) -> BeforeValidator:  # Any: JSON value
    """Accepts a field only with the value that makes no difference."""

    def check(value: Any) -> Any:  # Any: JSON value
        if value not in (None, neutral):
            raise ValueError(f"{why}; leave it out or send {neutral!r}")
        return value

    return BeforeValidator(check)


def never(why: str) -> BeforeValidator:
    """Refuses a field with a reason of its own."""

    def check(value: Any) -> Any:  # Any: JSON value
        if value is not None:
            raise ValueError(why)
        return value

    return BeforeValidator(check)


_NO_PENALTIES = "penalties are not supported, since engines differ in what they mean"

ZeroPenalty = Annotated[float | None, Field(ge=0, le=0), only(0, _NO_PENALTIES)]
NoRepetitionPenalty = Annotated[float | None, Field(ge=1, le=1), only(1, _NO_PENALTIES)]
NoBias = Annotated[dict[str, float] | None, Field(max_length=0), only({}, "logit_bias is not supported by any engine")]
TextOnly = Annotated[
    list[Literal["text"]] | None, Field(min_length=1, max_length=1), only(["text"], "only text can be read and written")
]
NoAudio = Annotated[None, never("audio is not supported; only text can be read and written")]
NoFunctions = Annotated[None, never("functions are no longer supported; send tools")]
NoWebSearch = Annotated[None, never("web search is not supported; offer a tool of your own")]
NoModeration = Annotated[None, never("moderation is not supported")]
MediumVerbosity = Annotated[
    Literal["medium"] | None, only("medium", "verbosity is not supported; ask for it in the prompt")
]


class TtcOptions(Body):
    """What OpenAI's API has no words for: the object ``ttc`` of a request's body."""

    budget: BudgetBody | Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Caps on the whole job; by default width times max_completion_tokens in output tokens"
    )
    policy: Name | None = Field(None, description="How the budget is spent; by default what the model's name says")
    params: Json = Field(default_factory=dict, description="Parameters of the policy")
    verifier: Name | None = Field(None, description="Who scores, for policies that ask")
    answer: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="How final answers are found in replies; by default open (json with a response_format)"
    )
    target_confidence: Annotated[Real, Field(gt=0, lt=1)] | None = Field(None, description="Stop once this sure")
    sampling: Literal["policy", "request"] | SamplingBody | None = Field(
        None,
        description="Whose sampling is used: the policy's own, the request's temperature, top_p, top_k and min_p, or "
        "this one. By default the request's with policy single, else the policy's",
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] | None = Field(None, description="Goes before the request's seed")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32, description="The caller's own")
    progress: Literal["comments", "reasoning"] = Field(
        "comments", description="How a stream tells what goes on before the answer: as comments or reasoning_content"
    )


class StreamOptions(Body):
    """How a reply is streamed."""

    include_usage: Flag = False
    include_obfuscation: Flag = Field(False, description="Ignored")


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: list[Any] | None = Field(None, description="Ignored")  # Any: JSON values
    logprobs: list[Any] | None = Field(None, description="Ignored")  # Any: JSON values


def check_parts(content: Any) -> Any:  # Any: JSON value
    """Refuses parts that are no text, by their type, before anybody complains about their fields."""
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in {"text", "input_text", "output_text"}:
            raise ValueError(f"content of type {kind!r} cannot be read; only text can")
    return content


def text_or_list(value: Any) -> str:  # Any: JSON value
    """Which of the two it is meant to be, so that only that one's mistakes are told."""
    return "list" if isinstance(value, list) else "text"


Content = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[TextPart], Tag("list")],
    Discriminator(text_or_list),
    BeforeValidator(check_parts),
]


def text_of(content: str | list[TextPart] | None) -> str:
    """The content as one text."""
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


class FunctionBody(Body):
    """A function that the caller has."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:/-]+$")]
    description: Text | None = None
    parameters: Json | None = Field(None, description="JSON schema of the arguments")
    strict: Flag | None = None


class JsonSchemaBody(Body):
    """A schema that the reply must have."""

    name: Name = "answer"
    description: Text | None = None
    schema_: Json = Field(default_factory=dict, alias="schema")
    strict: Flag | None = Field(None, description="Ignored: schemas always hold")
