"""Holds texts against JSON schemas, in a process that can be killed: schemas and texts are not ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.api.service.openai.wish import JSON_OBJECT
from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.isolation import KillablePool, RemoteError, WorkerDied

_TIMEOUT_S = 5.0
_SHOWN_CHARS = 200

Schema = Mapping[str, Any]
"""Any: JSON Schema."""


async def check_schema(schema: Schema, pool: KillablePool) -> None:
    """Whether it is a schema.

    Raises:
        InvalidRequest: It is not.
        MissingDependency: There is nobody to say.
    """
    if schema == JSON_OBJECT:
        return
    try:
        import jsonschema  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise MissingDependency(package="jsonschema", extra="service", purpose="response_format") from error
    try:
        fault = await pool.run(schema_fault, dict(schema), timeout_s=_TIMEOUT_S)
    except (TimeoutError, RemoteError, WorkerDied):
        fault = "it cannot be checked"
    if fault is not None:
        raise InvalidRequest(f"response_format: this is no JSON schema: {fault}", field="response_format")


async def fault_of(text: str, schema: Schema, pool: KillablePool) -> str | None:
    """Why a text is no JSON of the schema; None if it is."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return "it is not JSON"
    if schema == JSON_OBJECT:
        return None if isinstance(value, dict) else "it is no JSON object"
    try:
        return await pool.run(value_fault, text, dict(schema), timeout_s=_TIMEOUT_S)
    except (TimeoutError, RemoteError, WorkerDied):
        return "it cannot be held against the schema"


def schema_fault(schema: dict[str, Any]) -> str | None:
    """Runs in a worker: why this is no schema; None if it is."""
    import jsonschema

    try:
        _validator_class(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return error.message[:_SHOWN_CHARS]
    return None


def value_fault(text: str, schema: dict[str, Any]) -> str | None:
    """Runs in a worker: why a JSON text is not of the schema; None if it is. Nothing is fetched from anywhere."""
    from referencing import Registry

    validator = _validator_class(schema)(schema, registry=Registry())
    error = next(iter(validator.iter_errors(json.loads(text))), None)
    return None if error is None else f"{error.json_path}: {error.message[:_SHOWN_CHARS]}"


def _validator_class(schema: dict[str, Any]) -> Any:  # Any: jsonschema has no types of its own for this
    from jsonschema.validators import Draft202012Validator, validator_for

    return validator_for(schema, default=Draft202012Validator)
