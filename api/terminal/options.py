"""Options that several commands share, and what they stand for: models by role, and the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.config import Settings, read_settings
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.stores.opening import default_store_path

_Command = TypeVar("_Command", bound=Callable[..., Any])  # Any: click passes options by name


def store_options(command: _Command) -> _Command:
    """``--store``, for commands that look at jobs."""
    return click.option(
        "--store",
        metavar="STORE",
        help="Where jobs are kept: a path or redis://HOST:PORT/DB; by default $TTC_STORE, else the data folder.",
    )(command)


def model_options(command: _Command) -> _Command:
    """``--model``, ``--large`` and ``--verifier-model``."""
    for option in (
        click.option("--verifier-model", metavar="MODEL", help="Model that judges, where a verifier needs one."),
        click.option("--large", metavar="MODEL", help="Large model, for policies that escalate."),
        click.option(
            "--model", metavar="MODEL", help="Model: a catalogue name, a GGUF file, or ENGINE:TARGET (ttc engines)."
        ),
    ):
        command = option(command)
    return command


def embedder_option(command: _Command) -> _Command:
    """``--embedder``."""
    return click.option("--embedder", metavar="MODEL", help="Model that tells steps apart, for policies such as ets.")(
        command
    )


def json_option(what: str) -> Callable[[_Command], _Command]:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what}; errors are JSON on stderr.")


def store_path(given: str | None, settings: Settings | None = None) -> str:
    """The store that is meant: the option, the setting, or the default.

    Raises:
        InvalidRequest: The option is empty, or a setting cannot be used.
    """
    if given is not None and not given.strip():
        raise InvalidRequest("--store is empty; write a path, or --no-store", field="store", value=given)
    return given or (settings or read_settings()).store or str(default_store_path())


def existing_store_path(given: str | None) -> str:
    """`store_path`, for commands that only look: a store that is named must be there.

    Raises:
        StoreFailed: There is no file of that name.
    """
    path = store_path(given)
    file = path.removeprefix("sqlite:").removeprefix("//")
    if given is not None and path != "memory:" and "://" not in path and not Path(file).expanduser().exists():
        raise StoreFailed(f"there is no store at {file!r}", path=file)
    return path


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Models by role, as text that `orchestrator.models.open_model` reads.

    Attributes:
        small: None for the configured one.
        large: None for the configured one, if any.
        roles: Further ones.
    """

    small: str | None = None
    large: str | None = None
    roles: dict[str, str] | None = None

    @classmethod
    def of_options(
        cls, model: str | None, large: str | None, verifier_model: str | None, embedder: str | None = None
    ) -> ModelChoice:
        """As the options say.

        Raises:
            InvalidRequest: One is given and empty.
        """
        given = {"model": model, "large": large, "verifier_model": verifier_model, "embedder": embedder}
        for name, value in given.items():
            if value is not None and not value.strip():
                raise InvalidRequest(f"--{name.replace('_', '-')} is empty; see: ttc models list", field=name, value="")
        roles = {"verifier": verifier_model, "embedder": embedder}
        return cls(model, large, {role: name for role, name in roles.items() if name is not None} or None)

    def over(self, recorded: dict[str, str]) -> ModelChoice:
        """These choices where they are made, else those that a job recorded."""
        others = {role: name for role, name in recorded.items() if role not in {"small", "large"}}
        return ModelChoice(
            self.small or recorded.get("small"), self.large or recorded.get("large"), others | (self.roles or {})
        )

    def names(self, settings: Settings) -> list[str]:
        """All models that will be opened."""
        wanted = [self.small or settings.model, self.large or settings.large, *(self.roles or {}).values()]
        return [name for name in wanted if name is not None]
