"""The body of ``POST /v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from orchestrator.api.service.openai.bodies import (
    Body,
    Content,
    Effort,
    FunctionBody,
    JsonSchemaBody,
    MediumVerbosity,
    Name,
    StreamOptions,
    Text,
    TtcOptions,
    never,
    text_of,
    text_or_list,
)
from orchestrator.api.service.openai.chat_request import Anything, check_choice
from orchestrator.api.service.openai.wish import JSON_OBJECT, Wish
from orchestrator.api.service.requests import Flag, MessageBody, Real, ToolCallBody, Whole
from orchestrator.reply_form import AUTO, ToolOffer

LOGPROBS = "message.output_text.logprobs"

MetadataValue = Annotated[str, Field(max_length=256)]
NoConversation = Annotated[None, never("conversations are not kept; send previous_response_id")]
NoPrompt = Annotated[None, never("prompts are not kept; send instructions and input")]


class InputItem(Body):
    """A message, a call that a model asked for, or what it gave."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    call_id: Annotated[str, Field(max_length=200)] = ""
    name: Annotated[str, Field(max_length=200)] = ""
    arguments: Text = "{}"
    output: Content | None = None
    id: Anything = Field(None, description="Ignored")
    status: Anything = Field(None, description="Ignored")
    phase: Anything = Field(None, description="Ignored")
    summary: Anything = Field(None, description="Ignored, as reasoning is")
    encrypted_content: Anything = Field(None, description="Ignored, as reasoning is")

    @model_validator(mode="after")
    def _is_whole(self) -> InputItem:
        if self.type == "message" and self.role is None:
            raise ValueError("a message needs a role")
        if self.type.startswith("function_call") and not self.call_id:
            raise ValueError(f"an item of type {self.type!r} needs a call_id")
        if self.type == "function_call" and not self.name:
            raise ValueError("a function_call needs a name")
        return self


class FunctionTool(FunctionBody):
    """A function that the model may ask for."""

    type: Literal["function"]


class NamedTool(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: Name


class PlainFormat(Body):
    """Text without a form, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(JsonSchemaBody):
    """JSON of a schema."""

    type: Literal["json_schema"]


class TextBody(Body):
    """What the text must be like."""

    format: PlainFormat | SchemaFormat | None = Field(None, discriminator="type")
    verbosity: MediumVerbosity = None


class ReasoningBody(Body):
    """How much to think."""

    effort: Effort | None = None
    summary: Anything = Field(None, description="Ignored: there are no summaries")
    generate_summary: Anything = Field(None, description="Ignored")


class ResponseRequest(Body):
    """A response that is asked for; with `background` it is a job."""

    model: Name = Field(description="ttc/auto, ttc/POLICY, or a model of the fleet (GET /v1/models)")
    input: Annotated[
        Annotated[Text, Tag("text")] | Annotated[list[InputItem], Field(min_length=1, max_length=10_000), Tag("list")],
        Discriminator(text_or_list),
    ]
    instructions: Text | None = None
    previous_response_id: Annotated[str, Field(max_length=200)] | None = None
    background: Flag = Field(False, description="Queue it, and answer at once")
    stream: Flag = Field(False, description="Not together with background")
    stream_options: StreamOptions = StreamOptions()
    ttc: TtcOptions = TtcOptions()
    reasoning: ReasoningBody = ReasoningBody()
    max_output_tokens: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Most tokens of each candidate"
    )
    temperature: Annotated[Real, Field(ge=0, le=5)] | None = None
    top_p: Annotated[Real, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[Real, Field(ge=0, lt=1)] | None = None
    seed: Annotated[Whole, Field(gt=-(2**63), lt=2**63)] | None = None
    text: TextBody = TextBody()
    tools: list[FunctionTool] = Field(default_factory=list, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: Flag = True
    include: list[Annotated[str, Field(max_length=100)]] = Field(default_factory=list, max_length=32)
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] = "disabled"
    store: Flag = True
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], MetadataValue], Field(default_factory=dict, max_length=16)
    ]

    conversation: NoConversation = None
    prompt: NoPrompt = None

    max_tool_calls: Anything = Field(None, description="Ignored: no tools are called here")
    prompt_cache_key: Anything = Field(None, description="Ignored")
    prompt_cache_options: Anything = Field(None, description="Ignored")
    prompt_cache_retention: Anything = Field(None, description="Ignored")
    safety_identifier: Anything = Field(None, description="Ignored")
    service_tier: Anything = Field(None, description="Ignored")
    user: Anything = Field(None, description="Ignored")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ResponseRequest:
        if self.background and self.stream:
            raise ValueError("background and stream exclude each other; follow the job at /v1/jobs/{id}/events")
        if self.background and not self.store:
            raise ValueError("a response in the background has to be stored")
        if self.background and self._top_logprobs() is not None:
            raise ValueError("log probabilities are not kept, so a response in the background has none")
        if self.tools and self.text.format is not None and self.text.format.type != "text":
            raise ValueError("text.format and tools exclude each other")
        check_choice(self._choice(), [tool.name for tool in self.tools])
        return self

    def wish(self, before: tuple[MessageBody, ...] = ()) -> Wish:
        """What is wanted.

        Args:
            before: The conversation that it goes on with.
        """
        system = (MessageBody(role="system", content=self.instructions),) if self.instructions else ()
        return Wish(
            model=self.model,
            messages=(*system, *before, *messages_of(self.input)),
            ttc=self.ttc,
            effort=self.reasoning.effort,
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed,
            top_logprobs=self._top_logprobs(),
            json_schema=self._schema(),
            tools=self._offer(),
        )

    def _top_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.top_logprobs is not None or LOGPROBS in self.include else None

    def _schema(self) -> dict[str, Any] | None:  # Any: JSON Schema
        wanted = self.text.format
        if isinstance(wanted, SchemaFormat):
            return wanted.schema_
        return dict(JSON_OBJECT) if wanted is not None and wanted.type == "json_object" else None

    def _choice(self) -> str:
        return self.tool_choice.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice or AUTO

    def _offer(self) -> ToolOffer | None:
        if not self.tools:
            return None
        functions = tuple(tool.model_dump(exclude_none=True, exclude={"type"}) for tool in self.tools)
        return ToolOffer(functions=functions, choice=self._choice(), may_call_several=self.parallel_tool_calls)


def messages_of(given: str | list[InputItem]) -> tuple[MessageBody, ...]:
    """The conversation; calls in a row belong to one message of the assistant."""
    if isinstance(given, str):
        return (MessageBody(role="user", content=given),)
    messages: list[MessageBody] = []
    for item in given:
        if item.type == "function_call_output":
            messages.append(MessageBody(role="tool", content=text_of(item.output), tool_call_id=item.call_id))
        elif item.type == "function_call":
            call = ToolCallBody(id=item.call_id, name=item.name, arguments=item.arguments)
            last = messages[-1] if messages and messages[-1].role == "assistant" else None
            if last is not None:
                messages[-1] = last.model_copy(update={"tool_calls": (*last.tool_calls, call)})
            else:
                messages.append(MessageBody(role="assistant", content="", tool_calls=(call,)))
        elif item.type == "message" and item.role is not None:
            role = "system" if item.role == "developer" else item.role
            messages.append(MessageBody(role=role, content=text_of(item.content)))
    return tuple(messages)
