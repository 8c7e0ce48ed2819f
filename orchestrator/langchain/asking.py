"""From the body of a chat request to the arguments of `Orchestrator.solve`, for chats that stay in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator import registry
from orchestrator.budget import Budget
from orchestrator.config import Settings
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest
from orchestrator.reply_form import ReplyForm, ToolCall, ToolOffer
from orchestrator.sampling import Sampling

Json = dict[str, Any]  # Any: JSON values

AUTO_MODEL = "ttc/auto"
_PREFIX = "ttc/"
_ANSWER = "open"
"""How answers are read unless the caller says: what can be found is compared, and models are asked for no form."""


def local_options(body: Json, settings: Settings) -> tuple[str, Json]:
    """The problem, and the options.

    Raises:
        InvalidRequest: Something in the body is for a service only, or cannot be used.
    """
    messages = [message_of(turn) for turn in body["messages"]]
    problem = next((turn.content for turn in reversed(messages) if turn.role == "user"), "")
    if body.get("n") not in {None, 1}:
        raise InvalidRequest("several choices are to be had from a service only, not in process", field="n")
    wanted: Json = dict(body.get("ttc") or {})
    by_model = _policy_of(str(body.get("model") or AUTO_MODEL), settings)
    name = wanted.pop("policy", None) or by_model[0]
    wanted["params"] = by_model[1] | dict(wanted.get("params") or {})
    form = _form(body)
    options: Json = {
        "messages": messages,
        "policy": name,
        "answer": _ANSWER if form.json_schema is None else "json",
        "form": form,
        "max_sample_tokens": body.get("max_completion_tokens") or body.get("max_tokens"),
        "seed": body.get("seed") or 0,
    }
    target = wanted.pop("target_confidence", None)
    options["budget"] = _budget(wanted.pop("budget", None), target)
    options |= _sampling(body, name, wanted["params"])
    return problem, options | wanted


def _policy_of(model: str, settings: Settings) -> tuple[str, Json]:
    """What a model's name stands for: a policy, and its parameters where the name is a model's own."""
    if model == AUTO_MODEL:
        return settings.policy, {}
    if model.startswith(_PREFIX):
        return model.removeprefix(_PREFIX), {}
    return "single", {"model": model}


def _budget(given: Mapping[str, Any] | str | None, target: float | None) -> Budget | None:
    if isinstance(given, str):
        return Budget.parse(given, target_confidence=target)
    values = dict(given or {}) | ({} if target is None else {"target_confidence": target})
    return Budget.from_json(values) if values else None


def _sampling(body: Json, policy: str, params: Json) -> Json:
    """The temperature becomes a parameter of the policy if it has one; if there is more, the job's sampling counts."""
    given = {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p") if body.get(name) is not None}
    if not given:
        return {}
    if "temperature" in registry.load_policy(policy).params_type.model_fields:
        params.setdefault("temperature", given["temperature"] if given.keys() == {"temperature"} else None)
    return {"sampling": Sampling(**given)}


def _form(body: Json) -> ReplyForm:
    stop = body.get("stop") or ()
    schema = body.get("response_format") or {}
    return ReplyForm(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        json_schema=_schema(schema) if schema else None,
        tools=_tools(body),
    )


def _schema(wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    kind = wanted.get("type")
    if kind == "json_object":
        return {"type": "object"}
    schema: Mapping[str, Any] | None = wanted["json_schema"]["schema"] if kind == "json_schema" else None
    return schema


def _tools(body: Json) -> ToolOffer | None:
    functions = tuple(tool["function"] for tool in body.get("tools") or ())
    choice = body.get("tool_choice") or "auto"
    if not functions:
        return None
    name = choice if isinstance(choice, str) else choice["function"]["name"]
    return ToolOffer(functions=functions, choice=name, may_call_several=body.get("parallel_tool_calls") is not False)


def message_of(turn: Json) -> Message:
    """A turn of the endpoint's form as engines are shown it.

    Raises:
        InvalidRequest: It holds more than text.
    """
    content = turn.get("content") or ""
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "\n".join(_text(block) for block in content)
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in turn.get("tool_calls") or ()
    )
    role: Any = "system" if turn["role"] == "developer" else turn["role"]  # Any: one of four texts
    return Message(role, content, calls, turn.get("tool_call_id") or "")


def _text(block: object) -> str:
    if isinstance(block, Mapping) and block.get("type") == "text":
        return str(block["text"])
    if isinstance(block, str):
        return block
    kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
    raise InvalidRequest(f"messages may hold text only, not {kind!r}", field="messages", value=kind)
