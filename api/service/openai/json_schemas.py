"""Holds texts against JSON schemas, in a process that can be killed: schemas and texts are not ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from orchestrator.api.service.openai.schema_worker import prepare, schema_fault, value_fault
from orchestrator.api.service.openai.wish import JSON_OBJECT
from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.isolation import KillablePool, RemoteError, WorkerDied

_TIMEOUT_S = 2.0
_PREPARE_S = 60.0

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
    if find_spec("jsonschema") is None:
        raise MissingDependency(package="jsonschema", extra="service", purpose="response_format")
    try:
        fault = await _checked(pool, schema_fault, dict(schema))
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
        return await _checked(pool, value_fault, text, dict(schema))
    except (TimeoutError, RemoteError, WorkerDied):
        return "it cannot be held against the schema"


async def _checked(pool: KillablePool, check: Callable[..., str | None], *args: object) -> str | None:
    await pool.run(prepare, timeout_s=_PREPARE_S)
    return await pool.run(check, *args, timeout_s=_TIMEOUT_S)
