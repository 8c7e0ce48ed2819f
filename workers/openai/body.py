"""Turns a request for samples into the JSON bodies that a server understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.engine import GenerateRequest, Message, ModelDescription, Prompt
from orchestrator.errors import CapabilityMissing, InvalidRequest
from orchestrator.reply_form import AUTO, NO_TOOL, SOME_TOOL, ToolOffer
from orchestrator.workers.openai.dialect import Dialect, GrammarField
from orchestrator.workers.openai.options import OpenAIOptions
from orchestrator.workers.openai.sample import RemoteSample

_Body = dict[str, Any]  # Any: JSON values

MAX_LOGPROBS = 20
"""What OpenAI and vLLM allow; others allow more, but then a policy would work on one server only."""

_LARGEST_SEED = 2**31 - 1  # fits servers that keep it in 32 signed bits; 2**32 - 1 means "random" to llama.cpp


def rendered(prompt: Prompt, template: str) -> str:
    """The prompt as text, for the completions API, up to where the model goes on.

    Args:
        prompt: The conversation.
        template: ``chatml`` or ``plain``.
    """
    if template == "plain":
        return "\n\n".join(message.content for message in prompt.messages) + prompt.continuation_text
    turns = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in prompt.messages)
    return f"{turns}<|im_start|>assistant\n{prompt.continuation_text}"


def estimated_tokens(prompt: Prompt) -> int:
    """Length of a prompt that no server has counted yet: a token for four bytes, and four for each message."""
    texts = [message.content for message in prompt.messages] + [prompt.continuation_text]
    texts += [call.name + call.arguments for message in prompt.messages for call in message.tool_calls]
    return sum(-(-len(text.encode()) // 4) for text in texts) + 4 * len(texts)


class BodyMaker:
    """Makes bodies for one server.

    Args:
        options: The engine's.
        dialect: The server's.
        description: The engine's; for the name in errors.
    """

    def __init__(self, options: OpenAIOptions, dialect: Dialect, description: ModelDescription, *, model: str) -> None:
        self._options = options
        self._dialect = dialect
        self._description = description
        self._model = model
        self._grammar_field: GrammarField = (
            dialect.grammar_field if options.grammar_field is None else options.grammar_field
        )

    @property
    def path(self) -> str:
        """Where bodies are posted, below ``base_url``."""
        return "completions" if self._options.api == "completions" else "chat/completions"

    def may_cut(self, request: GenerateRequest) -> bool:
        """Whether samples may have to be ended from here."""
        return bool(request.monitors or (request.stop and not self._dialect.keeps_stop))

    def streams(self, request: GenerateRequest) -> bool:
        """Whether replies are asked for as streams."""
        return self._options.stream or self.may_cut(request)

    def check(self, request: GenerateRequest) -> None:
        """Refuses what this server cannot do.

        Raises:
            CapabilityMissing: The server does not have it.
            InvalidRequest: No server does.
        """
        if _num_logprobs(request) > MAX_LOGPROBS:
            raise InvalidRequest(
                f"at most {MAX_LOGPROBS} log probabilities per token can be had from a server",
                field="num_logprobs",
                value=_num_logprobs(request),
            )
        if request.grammar is not None and request.json_schema is not None:
            raise InvalidRequest("grammar and json_schema exclude each other", field="grammar")
        if request.grammar is not None and not self._grammar_field:
            raise self._missing("GBNF grammars")
        sampling = request.sampling
        if (sampling.top_k or sampling.min_p) and not sampling.is_greedy and self._dialect.top_k_off is None:
            raise self._missing(f"top_k and min_p (dialect {self._dialect.name!r})")

    def body(
        self, request: GenerateRequest, samples: Sequence[RemoteSample], *, max_tokens: int | None = None
    ) -> _Body:
        """The body that asks for these samples, all with one limit, in one request.

        Args:
            request: What is wanted.
            samples: Which of its samples.
            max_tokens: Instead of what they ask for.
        """
        body: _Body = {"model": self._model}
        if self.streams(request):
            body |= {"stream": True, "stream_options": self._stream_options()}
        body |= self._prompt(request.prompt)
        limit = samples[0].spec.max_tokens if max_tokens is None else max_tokens
        length_field = self._dialect.length_field if self._options.api == "chat" else "max_tokens"
        body[length_field] = limit
        body |= self._sampling(request, samples)
        body |= self._logprobs(_num_logprobs(request))
        body |= self._structure(request)
        if request.tools is not None:
            body |= _offer(request.tools)
        if self._dialect.keeps_stop and request.stop:
            body |= {"stop": list(request.stop), "include_stop_str_in_output": True}
        if self._dialect.has_cache_salt and request.cache_salt:
            body["cache_salt"] = request.cache_salt
        body |= self._options.extra_body
        return {name: value for name, value in body.items() if value is not None}

    def _stream_options(self) -> _Body:
        return {"include_usage": True} | ({"continuous_usage_stats": True} if self._dialect.has_running_usage else {})

    def _prompt(self, prompt: Prompt) -> _Body:
        if self._options.api == "completions":
            return {"prompt": rendered(prompt, self._options.chat_template)}
        turns = list(prompt.messages)
        if not prompt.continuation:
            return {"messages": [_turn(turn) for turn in turns]}
        turns.append(Message("assistant", prompt.continuation_text))
        flags: _Body = {}
        if self._dialect.continue_style == "flags":
            flags = {"continue_final_message": True, "add_generation_prompt": False}
        return {"messages": [_turn(turn) for turn in turns], **flags}

    def _sampling(self, request: GenerateRequest, samples: Sequence[RemoteSample]) -> _Body:
        sampling, dialect = request.sampling, self._dialect
        body: _Body = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if len(samples) > 1:
            body["n"] = len(samples)
        if not sampling.is_greedy:
            body["seed"] = samples[0].spec.seed & _LARGEST_SEED
        if dialect.top_k_off is not None:  # also when off: servers have defaults of their own
            body |= {"top_k": sampling.top_k or dialect.top_k_off, "min_p": sampling.min_p}
        if dialect.repetition_field:
            body[dialect.repetition_field] = 1.0
        return body

    def _logprobs(self, count: int) -> _Body:
        if not count:
            return {}
        if self._options.api == "completions":
            return {"logprobs": count}
        return {"logprobs": True, "top_logprobs": count}

    def _structure(self, request: GenerateRequest) -> _Body:
        if request.grammar is not None:
            if self._grammar_field == "structured_outputs":
                return {"structured_outputs": {"grammar": request.grammar}}
            return {self._grammar_field: request.grammar}
        if request.json_schema is None:
            return {}
        schema = dict(request.json_schema)
        if self._options.api == "completions" and self._dialect.completion_schema_field == "json_schema":
            return {"json_schema": schema}
        if self._dialect.schema_style == "json_object":
            return {"response_format": {"type": "json_object", "schema": schema}}
        return {
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        }

    def _missing(self, what: str) -> CapabilityMissing:
        return CapabilityMissing(model=self._description.name, capability=what)


def _num_logprobs(request: GenerateRequest) -> int:
    return max([request.num_logprobs, *(monitor.num_logprobs for monitor in request.monitors)])


def _turn(message: Message) -> _Body:
    turn: _Body = {"role": message.role, "content": message.content}
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["content"] = message.content or None
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return turn


def _offer(tools: ToolOffer) -> _Body:
    body: _Body = {"tools": [{"type": "function", "function": dict(function)} for function in tools.functions]}
    if tools.choice in {NO_TOOL, SOME_TOOL}:
        body["tool_choice"] = tools.choice
    elif tools.choice != AUTO:
        body["tool_choice"] = {"type": "function", "function": {"name": tools.choice}}
    if not tools.may_call_several:
        body["parallel_tool_calls"] = False
    return body
