"""What a caller demands of replies beyond their content: where they stop, their schema, the tools they may call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

AUTO, NO_TOOL, SOME_TOOL = "auto", "none", "required"
"""Values of `ToolOffer.choice` that name no tool."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for.

    Attributes:
        id: By which the tool's result refers to it.
        name: The tool.
        arguments: JSON text, as the model wrote it.
    """

    id: str
    name: str
    arguments: str

    def to_json(self) -> list[str]:
        """JSON values."""
        return [self.id, self.name, self.arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffer:
    """Tools that the caller has, for models to ask for.

    Attributes:
        functions: Each with ``name``, ``description``, ``parameters`` (a JSON schema) and perhaps ``strict``.
        choice: ``auto``, ``none``, ``required``, or the name of the one that must be called.
        may_call_several: Whether one reply may ask for several calls.
    """

    functions: tuple[Mapping[str, Any], ...]  # Any: JSON values
    choice: str = AUTO
    may_call_several: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyForm:
    """Demands on every reply to the query; replies on the side (a judge's) are free of them.

    Attributes:
        stop: A reply ends before the first of these strings; such a reply is complete.
        json_schema: Replies are JSON values of this schema. Held while text is generated where the engine has grammars
            and a reply is written in one piece.
        tools: What models may ask for.
        num_logprobs: See `orchestrator.engine.GenerateRequest`; watchers are told them with the text.
        prefix: What every reply begins with; it is not sampled, and engines must be able to continue it.
    """

    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None  # Any: JSON Schema
    tools: ToolOffer | None = None
    num_logprobs: int = 0
    prefix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Fields that are set, as JSON values."""
        data: dict[str, Any] = {}  # Any: JSON values
        if self.stop:
            data["stop"] = list(self.stop)
        if self.json_schema is not None:
            data["json_schema"] = dict(self.json_schema)
        if self.tools is not None:
            data["tools"] = {
                "functions": [dict(function) for function in self.tools.functions],
                "choice": self.tools.choice,
                "may_call_several": self.tools.may_call_several,
            }
        if self.num_logprobs:
            data["num_logprobs"] = self.num_logprobs
        if self.prefix:
            data["prefix"] = self.prefix
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        values = dict(data)
        values["stop"] = tuple(values.get("stop", ()))
        if (tools := values.get("tools")) is not None:
            values["tools"] = ToolOffer(**{**tools, "functions": tuple(tools["functions"])})
        return cls(**values)


FREE_FORM = ReplyForm()


def canonical_calls(calls: Sequence[ToolCall]) -> str:
    """Names and arguments in one text: equal texts mean equal calls, whatever their ids, key order or spacing."""
    return json.dumps([[call.name, _arguments(call)] for call in calls], sort_keys=True, ensure_ascii=False)


def _arguments(call: ToolCall) -> Any:  # Any: JSON value
    try:
        return json.loads(call.arguments or "{}")
    except (json.JSONDecodeError, RecursionError):
        return call.arguments
