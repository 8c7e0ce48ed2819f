"""Options that ``ttc serve`` and ``ttc controller`` share, and what they make of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import click

from orchestrator.api.terminal.options import ModelChoice, embedder_option, fleet_option, model_options, store_path
from orchestrator.api.terminal.pulling import pull_missing
from orchestrator.config import Settings, read_settings
from orchestrator.errors import InvalidRequest, MissingDependency

_Command = TypeVar("_Command", bound=Callable[..., Any])  # Any: click passes options by name


def service_options(command: _Command) -> _Command:
    """Models, store, how much at once."""
    for option in (
        click.option(
            "--grace", "grace_s", type=float, metavar="SECONDS", help="What runs may end in so long at a stop."
        ),
        click.option("--concurrency", type=int, metavar="N", help="Queued jobs that run at once in a process."),
        click.option(
            "--store",
            metavar="STORE",
            help="Where jobs are kept: a path, redis://HOST:PORT/DB or memory:; by default as for ttc solve.",
        ),
    ):
        command = option(command)
    return model_options(embedder_option(fleet_option(command)))


def settings_with(**options: Any) -> Settings:  # Any: fields of `ServiceSettings`
    """The configuration, with the options that were given in place of its own.

    Raises:
        InvalidRequest: One is out of range.
    """
    settings = read_settings()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        service = type(settings.service).model_validate({**settings.service.model_dump(), **given})
    except ValueError as error:
        raise _refused(error) from None
    return settings.model_copy(update={"service": service})


def models_with(options: ModelChoice, settings: Settings) -> ModelChoice:
    """The same models, their files pulled."""
    pull_missing(options.names(settings), is_quiet=False)
    return options


def check_installed() -> None:
    """Refuses to begin without what the service needs.

    Raises:
        MissingDependency: Its packages are not installed.
    """
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise MissingDependency(package=package, extra="service", purpose="the service")


def named_store(given: str | None, settings: Settings, *, is_shared: bool) -> str:
    """The store that is meant.

    Raises:
        InvalidRequest: Several processes are to share one that is in memory.
    """
    store = store_path(given, settings)
    if is_shared and store == "memory:":
        raise InvalidRequest(
            "a store in memory cannot be shared with other processes; name a file or redis://...", field="store"
        )
    return store


def _refused(error: ValueError) -> InvalidRequest:
    problem = error.errors()[0] if hasattr(error, "errors") else {"loc": ("option",), "msg": str(error)}
    name = str(problem["loc"][0])
    option = {"grace_s": "grace"}.get(name, name)
    return InvalidRequest(f"--{option.replace('_', '-')}: {problem['msg']}", field=name, value=problem.get("input"))
