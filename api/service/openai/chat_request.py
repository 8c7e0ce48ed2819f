"""The body of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.api.service.openai.bodies import (
    Body,
    Content,
    Effort,
    FunctionBody,
    JsonSchemaBody,
    MediumVerbosity,
    Name,
    NoAudio,
    NoBias,
    NoFunctions,
    NoModeration,
    NoRepetitionPenalty,
    NoWebSearch,
    StreamOptions,
    Text,
    TextOnly,
    TtcOptions,
    ZeroPenalty,
    text_of,
)
from orchestrator.api.service.openai.wish import JSON_OBJECT, Wish
from orchestrator.api.service.requests import Flag, MessageBody, Real, ToolCallBody, Whole
from orchestrator.reply_form import AUTO, NO_TOOL, SOME_TOOL, ToolOffer

Anything = Any
"""Fields that are ignored may hold any JSON value."""


class CalledFunction(Body):
    """What an assistant called."""

    name: Annotated[str, Field(max_length=200)]
    arguments: Text = "{}"


class ChatToolCall(Body):
    """A call in an assistant's message."""

    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(None, description="Ignored")

    def body(self) -> ToolCallBody:
        """The same as the service takes it."""
        return ToolCallBody(id=self.id, name=self.function.name, arguments=self.function.arguments)


class ChatMessage(Body):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[ChatToolCall] = Field(default_factory=list, max_length=128)
    tool_call_id: Annotated[str, Field(max_length=200)] = ""
    name: Anything = Field(None, description="Ignored")
    refusal: Anything = Field(None, description="Ignored")
    annotations: Anything = Field(None, description="Ignored")
    reasoning_content: Anything = Field(None, description="Ignored")
    parsed: Anything = Field(None, description="Ignored")
    audio: NoAudio = None
    function_call: NoFunctions = None

    def message(self) -> MessageBody:
        """The same as the service takes it."""
        role = "system" if self.role == "developer" else self.role
        calls = tuple(call.body() for call in self.tool_calls)
        return MessageBody(role=role, content=text_of(self.content), tool_calls=calls, tool_call_id=self.tool_call_id)


class ChatTool(Body):
    """A tool that the model may ask for."""

    type: Literal["function"]
    function: FunctionBody


class NamedFunction(Body):
    """A function by its name."""

    name: Name


class ChatNamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class PlainFormat(Body):
    """Text without a form, or any JSON object."""

    type: Literal["text", "json_object"]


class ChatSchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaBody


class ChatRequest(Body):
    """A chat completion that is asked for."""

    model: Name = Field(description="ttc/auto, ttc/POLICY, or a model of the fleet (GET /v1/models)")
    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    ttc: TtcOptions = TtcOptions()
    reasoning_effort: Effort | None = Field(None, description="How wide to search; see the documentation's table")
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Most tokens of each candidate"
    )
    max_tokens: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="The same, by its old name"
    )
    n: Annotated[Whole, Field(ge=1, le=128)] = Field(1, description="Distinct answers, best first; samples with single")
    stop: (
        Annotated[str, Field(min_length=1, max_length=1000)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=32)]
        | None
    ) = None
    temperature: Annotated[Real, Field(ge=0, le=5)] | None = None
    top_p: Annotated[Real, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=2**31)] | None = Field(None, description="-1 and 0 keep all tokens")
    min_p: Annotated[Real, Field(ge=0, lt=1)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: Flag = Field(False, description="With policy single only")
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    response_format: PlainFormat | ChatSchemaFormat | None = Field(None, discriminator="type")
    tools: list[ChatTool] = Field(default_factory=list, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChatNamedTool | None = None
    parallel_tool_calls: Flag = True
    stream: Flag = False
    stream_options: StreamOptions = StreamOptions()

    frequency_penalty: ZeroPenalty = None
    presence_penalty: ZeroPenalty = None
    repetition_penalty: NoRepetitionPenalty = None
    logit_bias: NoBias = None
    modalities: TextOnly = None
    audio: NoAudio = None
    functions: NoFunctions = None
    function_call: NoFunctions = None
    web_search_options: NoWebSearch = None
    moderation: NoModeration = None
    verbosity: MediumVerbosity = None

    metadata: Anything = Field(None, description="Ignored")
    prediction: Anything = Field(None, description="Ignored")
    prompt_cache_key: Anything = Field(None, description="Ignored")
    prompt_cache_options: Anything = Field(None, description="Ignored")
    prompt_cache_retention: Anything = Field(None, description="Ignored")
    safety_identifier: Anything = Field(None, description="Ignored")
    service_tier: Anything = Field(None, description="Ignored")
    store: Anything = Field(None, description="Ignored")
    user: Anything = Field(None, description="Ignored")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        check_choice(self._choice(), [tool.function.name for tool in self.tools])
        if self.tools and self.response_format is not None and self.response_format.type != "text":
            raise ValueError("response_format and tools exclude each other")
        return self

    def wish(self) -> Wish:
        """What is wanted, whichever endpoint it came by."""
        return Wish(
            model=self.model,
            messages=tuple(message.message() for message in self.messages),
            ttc=self.ttc,
            effort=self.reasoning_effort,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            n=self.n,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            json_schema=self._schema(),
            tools=self._offer(),
        )

    def _schema(self) -> dict[str, Any] | None:  # Any: JSON Schema
        if isinstance(self.response_format, ChatSchemaFormat):
            return self.response_format.json_schema.schema_
        is_json = self.response_format is not None and self.response_format.type == "json_object"
        return dict(JSON_OBJECT) if is_json else None

    def _choice(self) -> str:
        return (
            self.tool_choice.function.name if isinstance(self.tool_choice, ChatNamedTool) else self.tool_choice or AUTO
        )

    def _offer(self) -> ToolOffer | None:
        if not self.tools:
            return None
        functions = tuple(tool.function.model_dump(exclude_none=True) for tool in self.tools)
        return ToolOffer(functions=functions, choice=self._choice(), may_call_several=self.parallel_tool_calls)


def check_choice(choice: str, names: list[str]) -> None:
    """Whether there is what must be called, and only once what may be."""
    if len(names) > len(set(names)):
        raise ValueError("two tools have the same name")
    if choice == SOME_TOOL and not names:
        raise ValueError("tool_choice is 'required' but there are no tools")
    if choice not in {AUTO, NO_TOOL, SOME_TOOL} and choice not in names:
        raise ValueError(f"tool_choice names {choice!r}, which is not among the tools: {', '.join(names) or 'none'}")
