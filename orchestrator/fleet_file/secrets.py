"""Secrets of a fleet: ``${NAME}`` in its file stands for a variable, and a key that is written there is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from orchestrator.errors import InvalidRequest

SECRET = "secret"  # noqa: S105  # the name of a kind of error
"""Type of the validation error whose input must not be shown."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_BROKEN = re.compile(r"\$\{[^}]*\}?")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:api_?key|key|secret|password|passwd|authorization|(?:access|auth|bearer|hf|api)_token)$|^token$"
)
_SECRET_VALUE = re.compile(
    r"\b(?:sk-|sk_|hf_|ghp_|github_pat_|glpat-|gsk_|xox[abp]-|AKIA|AIza)[A-Za-z0-9_-]{16,}|(?i:^bearer\s+[^$\s])"
)
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:(?!\$\{)[^/@\s]+@")


def expanded(value: Any, environ: Mapping[str, str], *, at: str) -> Any:  # Any: what TOML holds
    """The value with variables in the place of each ``${NAME}``, in lists and tables, too.

    Args:
        value: Text, number, list or table.
        environ: The variables.
        at: Where the value stands, for the error.

    Raises:
        InvalidRequest: A variable is not set, or a ``${`` is no variable's.
    """
    if isinstance(value, Mapping):
        return {key: expanded(part, environ, at=f"{at}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [expanded(part, environ, at=f"{at}[{number}]") for number, part in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    rest = _VARIABLE.sub("", value)
    if (broken := _BROKEN.search(rest)) is not None:
        raise InvalidRequest(
            f"{at}: {broken.group()!r} is no variable; write ${{NAME}}, with letters, digits and _ in the name",
            field=at,
        )

    def read(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in environ:
            raise InvalidRequest(
                f"{at} refers to ${{{name}}}, which is not set where the model is opened; export {name}=..., on a "
                "cluster on each of its nodes before Ray starts there",
                field=at,
                variable=name,
            )
        return environ[name]

    return _VARIABLE.sub(read, value)


def refuse_secrets(value: object, *, name: str = "") -> None:
    """Refuses a key, a password or a token that is written out; ``${NAME}`` may stand for one.

    Raises:
        PydanticCustomError: There is one; its message does not show it.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            refuse_secrets(part, name=str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            refuse_secrets(part, name=name)
    elif isinstance(value, str) and _is_secret(name, value):
        what = f"{name} holds" if name else "it holds"
        raise PydanticCustomError(
            SECRET,
            "{what} a secret in plain text, and a fleet file is no place for one; write {instead} and set NAME in the "
            "environment",
            {"what": what, "instead": "${NAME}"},
        )


def _is_secret(name: str, value: str) -> bool:
    if _SECRET_NAME.search(name) and value and not _VARIABLE.search(value):
        return True
    return _SECRET_VALUE.search(value) is not None or _PASSWORD_IN_URL.search(value) is not None
