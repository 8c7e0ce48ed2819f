"""Options that several commands share, and what they stand for: models by role, and the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.config import Settings, read_settings
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.fleet_file import FleetFile, read_fleet
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


def fleet_option(command: _Command) -> _Command:
    """``--fleet``."""
    return click.option(
        "--fleet",
        metavar="FILE",
        help="Models, roles and where they run, from a fleet file (ttc fleet); the options above name models of it.",
    )(command)


def problem_options(command: _Command) -> _Command:
    """What is said of each problem, and of all of many: policy, budget, models, verifier, answers, sampling, seed."""
    for option in reversed(
        (
            click.option("--policy", metavar="NAME", help="How the budget is spent (ttc policies)."),
            click.option(
                "-n",
                "--n",
                "count",
                type=int,
                metavar="N",
                help="Most samples, for policies that draw a number of them.",
            ),
            click.option(
                "--set",
                "parameters",
                multiple=True,
                metavar="NAME=VALUE",
                help="A parameter of the policy; repeatable.",
            ),
            click.option(
                "--budget", metavar="CAPS", help="Caps per problem, for instance tokens=2000,seconds=60,usd=0.01."
            ),
            click.option(
                "--target-confidence", type=float, metavar="P", help="Stop once the policy is this sure, e.g. 0.95."
            ),
            model_options,
            embedder_option,
            fleet_option,
            click.option("--verifier", metavar="NAME", help="Who scores, for policies that ask (ttc verifiers)."),
            click.option(
                "--answer",
                default="auto",
                show_default=True,
                metavar="KIND",
                help="How answers are read: auto, boxed, exact, number, choice, code, json[:FIELD], math, text, "
                "regex:PATTERN.",
            ),
            click.option("--max-sample-tokens", type=int, metavar="N", help="Most tokens per sample."),
            click.option("--temperature", type=float, metavar="T", help="Of the policy's samples; 0 is greedy."),
            click.option("--seed", type=int, default=0, show_default=True, help="All randomness derives from it."),
        )
    ):
        command = option(command)
    return command


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
        fleet: A fleet whose models play their roles where none is named above, in place of configured ones.
    """

    small: str | None = None
    large: str | None = None
    roles: dict[str, str] | None = None
    fleet: FleetFile | None = None

    @classmethod
    def of_options(
        cls,
        model: str | None,
        large: str | None,
        verifier_model: str | None,
        embedder: str | None = None,
        *,
        fleet: str | None = None,
    ) -> ModelChoice:
        """As the options say.

        Raises:
            InvalidRequest: One is given and empty, or the fleet file cannot be used.
        """
        given = {"model": model, "large": large, "verifier_model": verifier_model, "embedder": embedder}
        for name, value in given.items():
            if value is not None and not value.strip():
                raise InvalidRequest(f"--{name.replace('_', '-')} is empty; see: ttc models list", field=name, value="")
        roles = {"verifier": verifier_model, "embedder": embedder}
        chosen = {role: name for role, name in roles.items() if name is not None} or None
        return cls(model, large, chosen, None if fleet is None else read_fleet(fleet))

    def over(self, recorded: dict[str, str]) -> ModelChoice:
        """These choices where they are made, else those that a job recorded; a fleet leaves nothing open."""
        if self.fleet is not None:
            return self
        others = {role: name for role, name in recorded.items() if role not in {"small", "large"}}
        return ModelChoice(
            self.small or recorded.get("small"), self.large or recorded.get("large"), others | (self.roles or {})
        )

    def names(self, settings: Settings) -> list[str]:
        """All models that will be opened."""
        named = [self.small, self.large, *(self.roles or {}).values()]
        if self.fleet is None:
            named[:2] = [self.small or settings.model, self.large or settings.large]
            return [name for name in named if name is not None]
        of_fleet = [
            f"ray:{name}" if self.fleet.has_cluster else entry.model for name, entry in self.fleet.models.items()
        ]
        return [*of_fleet, *(name for name in named if name is not None and name not in self.fleet.models)]

    def opened_by(self, opener: Callable[[str], str], settings: Settings) -> ModelChoice:
        """The same models, each opened by another text, configured ones included.

        Args:
            opener: From a model's text to the one to open instead, for instance ``hosted:`` before it.
            settings: The configuration.
        """
        small, large = self.small, self.large
        if self.fleet is None:
            small, large = small or settings.model, large or settings.large
        of_fleet = () if self.fleet is None else self.fleet.models

        def text(name: str) -> str:
            return name if name in of_fleet else opener(name)

        return ModelChoice(
            None if small is None else text(small),
            None if large is None else text(large),
            {role: text(name) for role, name in (self.roles or {}).items()} or None,
            None if self.fleet is None else self.fleet.opened_by(opener),
        )

    def arguments(self) -> dict[str, Any]:  # Any: of different types
        """Keyword arguments for `orchestrator.Orchestrator`."""
        return {"model": self.small, "large": self.large, "roles": self.roles, "fleet": self.fleet}
