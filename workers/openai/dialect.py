"""Where servers that speak the OpenAI API differ, as data: one `Dialect` a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DialectName = Literal["openai", "vllm", "sglang", "llama_cpp", "llama_cpp_python", "generic"]
GrammarField = Literal["", "grammar", "structured_outputs", "guided_grammar", "ebnf"]
ContinueStyle = Literal["none", "flags", "trailing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a server understands beyond the API that all share.

    Attributes:
        name: The server.
        length_field: How the chat API calls the limit on new tokens.
        top_k_off: Value of ``top_k`` that keeps all tokens; None if the server knows neither it nor ``min_p``.
        repetition_field: Its repetition penalty; sent as 1 (off), since some servers have another default.
        honours_n: Whether ``n`` gives n choices; None to find out.
        shares_prefixes: Whether requests with one prompt share its cache, which makes ``n`` needless.
        keeps_stop: Whether it can keep the stop string in the text and say which one it was.
        has_running_usage: Whether each chunk can carry the choice's exact counts so far.
        gives_logprobs: Whether log probabilities can be had as it is usually started.
        schema_style: How ``response_format`` carries a JSON schema.
        completion_schema_field: What carries a schema in the completions API; empty if nothing does.
        grammar_field: Where a grammar goes; empty if it takes none.
        continue_style: How the chat API is asked to continue the last assistant message; ``flags`` is
            ``continue_final_message``, ``trailing`` does so by itself.
        has_cache_salt: Whether it takes a ``cache_salt``.
        serves_one_at_a_time: Whether a further request cuts short the one being served.
    """

    name: DialectName
    length_field: str = "max_tokens"
    top_k_off: int | None = None
    repetition_field: str = ""
    honours_n: bool | None = None
    shares_prefixes: bool = False
    keeps_stop: bool = False
    has_running_usage: bool = False
    gives_logprobs: bool = True
    schema_style: Literal["json_schema", "json_object"] = "json_schema"
    completion_schema_field: Literal["", "response_format", "json_schema"] = ""
    grammar_field: GrammarField = ""
    continue_style: ContinueStyle = "none"
    has_cache_salt: bool = False
    serves_one_at_a_time: bool = False


DIALECTS: Mapping[DialectName, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(name="openai", length_field="max_completion_tokens", honours_n=True),
        Dialect(
            name="vllm",
            top_k_off=0,
            repetition_field="repetition_penalty",
            honours_n=True,
            shares_prefixes=True,
            keeps_stop=True,
            has_running_usage=True,
            completion_schema_field="response_format",
            grammar_field="structured_outputs",
            continue_style="flags",
            has_cache_salt=True,
        ),
        Dialect(
            name="sglang",
            top_k_off=-1,
            repetition_field="repetition_penalty",
            honours_n=True,
            shares_prefixes=True,
            has_running_usage=True,
            completion_schema_field="response_format",
            grammar_field="ebnf",
            continue_style="flags",
        ),
        Dialect(
            name="llama_cpp",
            top_k_off=0,
            repetition_field="repeat_penalty",
            shares_prefixes=True,
            completion_schema_field="json_schema",
            grammar_field="grammar",
            continue_style="trailing",
        ),
        Dialect(
            name="llama_cpp_python",
            top_k_off=0,
            repetition_field="repeat_penalty",
            honours_n=False,
            schema_style="json_object",
            grammar_field="grammar",
            serves_one_at_a_time=True,  # its setting interrupt_requests is on by default
        ),
        Dialect(name="generic"),
    )
}

_OWNERS: Mapping[str, DialectName] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama_cpp",
    "me": "llama_cpp_python",
    "openai": "openai",
}


def dialect_of(models: Any, *, host: str) -> Dialect:  # Any: JSON value
    """The dialect of a server, from its reply to ``/models`` (who it says owns the model) and its host."""
    if host == "api.openai.com":
        return DIALECTS["openai"]
    for model in served_models(models):
        owner = model.get("owned_by")
        if isinstance(owner, str) and owner in _OWNERS:
            return DIALECTS[_OWNERS[owner]]
    return DIALECTS["generic"]


def served_models(models: Any) -> list[Mapping[str, Any]]:  # Any: JSON values
    """The entries of a reply to ``/models``; none if it is something else."""
    data = models.get("data") if isinstance(models, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []
