"""Turns a JSON schema into a GBNF grammar whose every text is a value of that schema.

What the grammar cannot hold to is refused by name instead of being dropped. `format` and annotations are ignored;
`oneOf` is read as `anyOf`; properties come in the order of the schema, and without `additionalProperties` an object
that names properties has no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "format", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions"}
)
_BY_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
_MOST_INTEGERS = 1001
_MAX_DEPTH = 60
_PRIMITIVES = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    "char": r'[^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt/] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\""',
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "natural": r'"0" | [1-9] [0-9]{0,15}',
    "number": r'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": r'"true" | "false"',
    "null": r'"null"',
    "value": "object | array | string | number | boolean | null",
    "object": r'"{" ws (string ":" ws value ("," ws string ":" ws value)*)? ws "}"',
    "array": r'"[" ws (value ("," ws value)*)? ws "]"',
}

Schema = Mapping[str, Any] | bool  # Any: JSON Schema


def schema_grammar(schema: Mapping[str, Any]) -> str:  # Any: JSON Schema
    """The grammar of a schema's values, with the rule ``root``.

    Raises:
        ValueError: The schema is none, or holds something the grammar could not guarantee; says what and where.
    """
    return _Converter(schema).grammar()


class _Converter:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._rules = dict(_PRIMITIVES)
        self._referenced: dict[str, str] = {}

    def grammar(self) -> str:
        root = self._visit(self._schema, "#", 0)
        lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in self._rules.items())]
        return "\n".join(lines) + "\n"

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _visit(self, schema: Schema, where: str, depth: int) -> str:
        """Name of a rule for the values of a schema."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"{where} is nested too deeply")
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise ValueError(f"{where} is no schema")  # noqa: TRY004  every complaint is a ValueError
        keys = set(schema) - _ANNOTATIONS
        if "$ref" in keys:
            self._only(keys, {"$ref"}, where)
            return self._reference(schema["$ref"], where, depth)
        if "const" in keys or "enum" in keys:
            self._only(keys, {"const", "enum", "type"}, where)
            values = [schema["const"]] if "const" in keys else schema["enum"]
            if not isinstance(values, Sequence) or not values:
                raise ValueError(f"{where}/enum lists no values")
            return self._rule(" | ".join(_literal(json.dumps(value, ensure_ascii=False)) for value in values))
        for union in ("anyOf", "oneOf"):
            if union in keys:
                self._only(keys, {union}, where)
                options = [self._visit(part, f"{where}/{union}/{i}", depth + 1) for i, part in enumerate(schema[union])]
                if not options:
                    raise ValueError(f"{where}/{union} is empty")
                return self._rule(" | ".join(options))
        return self._typed(schema, keys, where, depth)

    def _typed(self, schema: Mapping[str, Any], keys: set[str], where: str, depth: int) -> str:
        named = schema.get("type")
        types = [named] if isinstance(named, str) else named
        if types is None:
            types = [kind for kind, known in _BY_TYPE.items() if keys & known]
            if not keys:
                return "value"
        if not isinstance(types, list) or not types or any(kind not in _BY_TYPE for kind in types):
            raise ValueError(f"{where} has {'type ' + repr(named) if named else 'keywords'} that cannot be enforced")
        self._only(keys, {"type"}.union(*(_BY_TYPE[kind] for kind in types)), where)
        makers = {"object": self._object, "array": self._array, "string": self._string, "integer": self._integer}
        rules = [makers[kind](schema, where, depth) if kind in makers else kind for kind in types]
        return rules[0] if len(rules) == 1 else self._rule(" | ".join(rules))

    def _only(self, keys: set[str], known: set[str], where: str) -> None:
        if unknown := sorted(keys - known):
            raise ValueError(f"{where}/{unknown[0]} cannot be enforced")

    def _reference(self, target: object, where: str, depth: int) -> str:
        if not isinstance(target, str) or not (target == "#" or target.startswith("#/")):
            raise ValueError(f"{where}/$ref names {target!r}, which is outside this schema")
        if target not in self._referenced:
            found: Any = self._schema
            for step in target.split("/")[1:]:
                key = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(found, Mapping) or key not in found:
                    raise ValueError(f"{where}/$ref names {target!r}, which does not exist")
                found = found[key]
            name = self._referenced[target] = self._rule("")
            body = self._visit(found, target, depth + 1)
            if body == name:
                raise ValueError(f"{where}/$ref refers to itself")
            self._rules[name] = body
        return self._referenced[target]

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        others: Schema = schema.get("additionalProperties", not (properties or required))
        if not isinstance(properties, Mapping) or not isinstance(required, Sequence):
            raise ValueError(f"{where} has properties or required of the wrong type")  # noqa: TRY004  as above
        members = {**properties, **{name: True for name in required if name not in properties}}
        pairs = [
            (
                f'{_literal(json.dumps(name, ensure_ascii=False))} ":" ws '
                + self._visit(part, f"{where}/properties/{name}", depth + 1),
                name in required,
            )
            for name, part in members.items()
        ]
        last = ""
        rest = '""'
        if others is not False:
            value = self._visit(others, f"{where}/additionalProperties", depth + 1)
            rest = self._rule(f'("," ws string ":" ws {value})*')
            last = f'(string ":" ws {value} {rest})?'
        first = last or '""'
        for pair, is_required in reversed(pairs):
            head = f"{pair} {rest}"
            first = self._rule(head if is_required else f"{head} | {first}")
            rest = self._rule(f'"," ws {pair} {rest}' if is_required else f'("," ws {pair})? {rest}')
        return self._rule(f'"{{" ws {first} ws "}}"')

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        fixed = [
            self._visit(part, f"{where}/prefixItems/{index}", depth + 1)
            for index, part in enumerate(schema.get("prefixItems", ()))
        ]
        least, most = _bounds(schema, "minItems", "maxItems", where)
        if fixed:
            if "items" in schema or "minItems" in schema or "maxItems" in schema:
                raise ValueError(f"{where}: prefixItems together with items or their number cannot be enforced")
            return self._rule('"[" ws ' + ' "," ws '.join(fixed) + ' ws "]"')
        if most == 0:
            return self._rule('"[" ws "]"')
        item = self._visit(schema.get("items", True), f"{where}/items", depth + 1)
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        body = f'{item} ("," ws {item}){more}'
        return self._rule(f'"[" ws {body if least else f"({body})?"} ws "]"')

    def _string(self, schema: Mapping[str, Any], where: str, depth: int) -> str:  # noqa: ARG002  one interface
        least, most = _bounds(schema, "minLength", "maxLength", where)
        if not least and most is None:
            return "string"
        return self._rule(rf'"\"" char{{{least},{"" if most is None else most}}} "\""')

    def _integer(self, schema: Mapping[str, Any], where: str, depth: int) -> str:  # noqa: ARG002  one interface
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is None and high is None:
            return "integer"
        if low == 0 and high is None:
            return "natural"
        if not isinstance(low, int) or not isinstance(high, int) or not 0 <= high - low < _MOST_INTEGERS:
            raise ValueError(f"{where}: a range of integers needs both ends, at most {_MOST_INTEGERS - 1} apart")
        return self._rule(" | ".join(f'"{number}"' for number in range(low, high + 1)))


def _bounds(schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    if not isinstance(least, int) or least < 0 or (most is not None and (not isinstance(most, int) or most < least)):
        raise ValueError(f"{where} has impossible {low} or {high}")
    return least, most


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
