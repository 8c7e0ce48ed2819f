"""Between LangChain's messages and those of the chat endpoint: what is sent, and what replies and chunks become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from orchestrator.errors import ServiceFailed

Json = dict[str, Any]  # Any: JSON values

_UNSAID = frozenset({"tool_call", "invalid_tool_call", "tool_use", "function_call", "reasoning", "thinking"})


def sent_messages(messages: Sequence[BaseMessage]) -> list[Json]:
    """The conversation as the endpoint reads it; what it cannot read (an image, say) is left in, for it to refuse."""
    return [{**turn, "content": _content(turn.get("content"))} for turn in convert_to_openai_messages(messages)]


def _content(content: Any) -> Any:  # Any: JSON value
    """Text where it is nothing but text: calls are told beside it, and thoughts of earlier turns are left out."""
    if not isinstance(content, list):
        return content
    blocks = [block for block in content if not (isinstance(block, Mapping) and block.get("type") in _UNSAID)]
    texts = [block["text"] for block in blocks if isinstance(block, Mapping) and block.get("type") == "text"]
    return "\n".join(texts) if len(texts) == len(blocks) else blocks


def result_of(body: Mapping[str, Any]) -> ChatResult:
    """A whole reply.

    Raises:
        ServiceFailed: It is none.
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ServiceFailed("the service sent a reply without choices", is_retryable=False)
    usage = usage_of(body.get("usage"))
    generations = []
    for index, choice in enumerate(choices):
        about = {**_about_all(body), **_about_one(choice)}
        message = _message(
            choice["message"], usage=usage if index == 0 else None, about=about, message_id=body.get("id")
        )
        generations.append(ChatGeneration(message=message, generation_info=_about_one(choice)))
    return ChatResult(generations=generations, llm_output=_about_all(body))


def _message(
    reply: Mapping[str, Any], *, usage: UsageMetadata | None, about: Json, message_id: str | None
) -> AIMessage:
    calls, broken = [], []
    for raw in reply.get("tool_calls") or ():
        try:
            calls.append(parse_tool_call(raw, return_id=True))
        except Exception as error:  # noqa: BLE001  # the parser's own kinds; what it cannot read is handed on as such
            broken.append(make_invalid_tool_call(raw, str(error)))
    return AIMessage(
        content=reply.get("content") or "",
        tool_calls=calls,
        invalid_tool_calls=broken,
        usage_metadata=usage,
        additional_kwargs=_beside(reply),
        response_metadata=about,
        id=message_id,
    )


def chunk_of(body: Mapping[str, Any]) -> ChatGenerationChunk:
    """A piece of a reply."""
    choice: Json = (body.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    about = _about_one(choice)
    if about.get("finish_reason"):
        about |= _about_all(body)
    message = AIMessageChunk(
        content=delta.get("content") or "",
        tool_call_chunks=[
            tool_call_chunk(
                name=(call.get("function") or {}).get("name"),
                args=(call.get("function") or {}).get("arguments"),
                id=call.get("id"),
                index=call.get("index"),
            )
            for call in delta.get("tool_calls") or ()
        ],
        usage_metadata=usage_of(body.get("usage")),
        additional_kwargs=_beside(delta),
        response_metadata=about,
        id=body.get("id"),
    )
    return ChatGenerationChunk(message=message, generation_info=about or None)


def usage_of(usage: Mapping[str, Any] | None) -> UsageMetadata | None:
    """Everything that was spent on a reply, samples that were not chosen included."""
    if not usage:
        return None
    read = usage.get("prompt_tokens") or 0
    written = usage.get("completion_tokens") or 0
    found = UsageMetadata(
        input_tokens=read, output_tokens=written, total_tokens=usage.get("total_tokens") or read + written
    )
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached is not None:
        found["input_token_details"] = InputTokenDetails(cache_read=cached)
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if reasoning is not None:
        found["output_token_details"] = OutputTokenDetails(reasoning=reasoning)
    return found


def _beside(reply: Mapping[str, Any]) -> Json:
    return {name: reply[name] for name in ("reasoning_content", "refusal") if reply.get(name)}


def _about_one(choice: Mapping[str, Any]) -> Json:
    return {name: choice[name] for name in ("finish_reason", "logprobs") if choice.get(name)}


def _about_all(body: Mapping[str, Any]) -> Json:
    about: Json = {"model_name": body["model"]} if body.get("model") else {}
    return about | {name: body[name] for name in ("system_fingerprint", "ttc") if body.get(name)}
