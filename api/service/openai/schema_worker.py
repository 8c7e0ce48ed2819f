"""Texts against JSON schemas, in a process that can be killed; imports nothing of ours, so that it starts fast."""

from __future__ import annotations

import json
from typing import Any

_SHOWN_CHARS = 200


def prepare() -> None:
    """Imports what is needed, which may take longer than any check."""
    import jsonschema  # noqa: F401
    import referencing  # noqa: F401


def schema_fault(schema: dict[str, Any]) -> str | None:  # Any: JSON Schema
    """Why this is no schema; None if it is."""
    import jsonschema

    try:
        _validator_class(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return str(error.message)[:_SHOWN_CHARS]
    return None


def value_fault(text: str, schema: dict[str, Any]) -> str | None:  # Any: JSON Schema
    """Why a JSON text is not of the schema; None if it is. Nothing is fetched from anywhere."""
    from referencing import Registry

    validator = _validator_class(schema)(schema, registry=Registry())
    error = next(iter(validator.iter_errors(json.loads(text))), None)
    return None if error is None else f"{error.json_path}: {error.message[:_SHOWN_CHARS]}"


def _validator_class(schema: dict[str, Any]) -> Any:  # Any: jsonschema makes these classes itself
    from jsonschema.validators import Draft202012Validator, validator_for

    return validator_for(schema, default=Draft202012Validator)
