"""Reads ``fleet.toml``; whatever is wrong with it is one sentence with the file, the key, the value and the way out."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file.entries import FleetFile
from orchestrator.fleet_file.secrets import SECRET, expanded

_MAX_BYTES = 1 << 20


def read_fleet(path: str | Path, *, environ: Mapping[str, str] | None = None) -> FleetFile:
    """The fleet of a file.

    Args:
        path: The file.
        environ: Variables that ``${NAME}`` stands for; those of this process by default. Only arguments of engines
            keep theirs, to be read where the engine is opened.

    Raises:
        InvalidRequest: It cannot be read, or is no fleet; the message names the key and the value.
    """
    file = Path(path).expanduser()
    data = _contents(file)
    try:
        fleet = FleetFile.model_validate(_filled(data, os.environ if environ is None else environ))
    except InvalidRequest as error:
        raise InvalidRequest(f"{file}: {error.message}", field=error.field) from None
    except ValidationError as error:
        raise _refused(error, file) from None
    fleet._path = file
    return fleet


def _contents(file: Path) -> dict[str, Any]:  # Any: what TOML holds
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InvalidRequest(f"{file} is no fleet file: it has more than {_MAX_BYTES} bytes", field="fleet")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(
            f"the fleet file {str(file)!r} cannot be read: {error.strerror}; see docs/howto/fleet.md",
            field="fleet",
            value=str(file),
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{file} is not valid TOML: {error}", field="fleet", value=str(file)) from None


def _filled(data: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:  # Any: as above
    """With variables filled in, outside of the arguments of engines."""
    models = data.get("models")
    if not isinstance(models, dict):
        return dict(expanded(data, environ, at="fleet"))
    kept = {name: entry["engine"] for name, entry in models.items() if isinstance(entry, dict) and "engine" in entry}
    bare = {
        name: {key: value for key, value in entry.items() if key != "engine"} if isinstance(entry, dict) else entry
        for name, entry in models.items()
    }
    rest = {key: expanded(value, environ, at=key) for key, value in data.items() if key != "models"}
    filled = expanded(bare, environ, at="models")
    for name, arguments in kept.items():
        filled[name]["engine"] = arguments
    return {**rest, "models": filled}


def _refused(error: ValidationError, file: Path) -> InvalidRequest:
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == SECRET:
        return InvalidRequest(f"{file}: {key}: {reason}", field=key)
    if problem["type"] == "extra_forbidden":
        return InvalidRequest(f"{file}: there is no key {key}; {_known_keys(problem['loc'])}", field=key)
    if problem["type"] == "missing":
        return InvalidRequest(f"{file}: {key} is missing; see docs/howto/fleet.md", field=key)
    value = problem.get("input")
    if isinstance(value, dict | list | BaseModel):
        return InvalidRequest(f"{file}: {key}: {reason}" if key else f"{file}: {reason}", field=key or "models")
    return InvalidRequest(f"{file}: {key} = {value!r:.100} is not valid: {reason}", field=key, value=value)


def _known_keys(place: tuple[int | str, ...]) -> str:
    """Which keys there are where an unknown one was written."""
    kind: Any = FleetFile  # Any: a class of pydantic, or a type that holds one
    for part in place[:-1]:
        fields = _fields_of(kind)
        kind = fields.get(str(part), kind) if fields else kind
    names = sorted(_fields_of(kind))
    near = difflib.get_close_matches(str(place[-1]), names, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def _fields_of(kind: Any) -> dict[str, Any]:  # Any: as above
    """Keys of a table, with the types that they hold; tables by name are looked through."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {(field.alias or name): _table(field.annotation) for name, field in kind.model_fields.items()}
    return {}


def _table(annotation: Any) -> Any:  # Any: a type
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), annotation)
