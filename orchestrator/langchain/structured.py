"""Replies as values of a schema: what is asked of the model, and how its reply is read."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langchain_core.language_models import LanguageModelInput
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from orchestrator.errors import InvalidRequest

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

Method = Literal["json_schema", "function_calling", "json_mode"]
Schema: TypeAlias = dict[str, Any] | type  # Any: JSON Schema


def structured(
    model: BaseChatModel,
    schema: Schema,
    *,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    **kwargs: Any,  # Any: bound as they are
) -> Runnable[LanguageModelInput, Any]:
    """The model with the schema bound to it, and its replies read; arguments as for `with_structured_output`.

    Raises:
        InvalidRequest: There is no such method.
    """
    about: dict[str, Any] = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        asked = model.bind_tools(
            [schema], tool_choice=name, strict=strict, parallel_tool_calls=False, **about, **kwargs
        )
    elif method in {"json_schema", "json_mode"}:
        asked = model.bind(response_format=_response_format(schema, method, strict), **about, **kwargs)
    else:
        raise InvalidRequest(
            f"method must be json_schema, function_calling or json_mode, not {method!r}", field="method", value=method
        )
    parser = _parser(schema, is_tool=method == "function_calling")
    if not include_raw:
        return asked | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=asked) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _response_format(schema: Schema, method: Method, strict: bool | None) -> dict[str, Any]:  # Any: JSON values
    if method == "json_mode":
        return {"type": "json_object"}
    wanted = dict(convert_to_json_schema(schema))
    described = {"name": wanted.pop("title", "answer"), "schema": wanted}
    if "description" in wanted:
        described["description"] = wanted.pop("description")
    if strict is not None:
        described["strict"] = strict
    return {"type": "json_schema", "json_schema": described}


def _parser(schema: Schema, *, is_tool: bool) -> Runnable[Any, Any]:  # Any: a reply; a value of the schema
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        if is_tool:
            return PydanticToolsParser(tools=[schema], first_tool_only=True)
        return PydanticOutputParser(pydantic_object=schema)
    if is_tool:
        name = convert_to_openai_tool(schema)["function"]["name"]
        return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
    return JsonOutputParser()
