"""Schemas become grammars that are sound, and what cannot be promised is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.workers.llama_cpp.grammar import schema_to_grammar

RECURSIVE = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": ["string", "null"], "minLength": 1, "maxLength": 3, "title": "ignored"},
        {"type": "array", "items": {"type": "integer", "minimum": -3, "maximum": 3}, "minItems": 1, "maxItems": 4},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]},
        {"enum": ['a "quoted"', 1, None, "é\\n\n"]},
        {
            "properties": {"a": {}, "b": {"const": 1}},
            "required": ["b", "c"],
            "additionalProperties": {"type": "boolean"},
        },
        RECURSIVE,
    ],
    ids=str,
)
def test_a_schema_becomes_a_sound_grammar(schema: dict[str, Any]) -> None:
    assert "root ::= " in schema_to_grammar(schema)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "a+"}, "#/pattern"),
        ({"type": "number", "multipleOf": 3}, "#/multipleOf"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "#/properties/a"),
        ({"type": "colour"}, "colour"),
        ({"$ref": "https://example.org/s.json"}, "outside this schema"),
        ({"$ref": "#/$defs/missing"}, "does not exist"),
        ({"$ref": "#"}, "itself"),
        ({"enum": []}, "no values"),
        ({"type": "integer", "minimum": 3}, "both ends"),
        ({"type": "array", "minItems": 4, "maxItems": 3}, "impossible"),
        ({"enum": [object()]}, "not JSON serializable"),
        ({"const": "\ud800"}, "surrogates"),
    ],
)
def test_what_a_grammar_cannot_promise_is_refused_by_name(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named) as caught:
        schema_to_grammar(schema)
    assert caught.value.field == "json_schema"


def test_nesting_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidRequest, match="too deeply"):
        schema_to_grammar(schema)
