"""Opens the models of a fleet file: in this process, or as they run on its cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, SecretStr, ValidationError

from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest, TtcError, from_fields
from orchestrator.fleet import Fleet
from orchestrator.fleet_file.entries import LOCAL, FleetFile, ModelEntry
from orchestrator.fleet_file.member import as_member
from orchestrator.fleet_file.secrets import expanded
from orchestrator.local_cluster import local_address
from orchestrator.models import free_name, open_model, split_model

HOSTED = "hosted"
_SETTINGS_OF = {"lab": "llama_cpp", "reward": "openai"}
"""Engines whose settings are those of another."""


def engine_of(model: str) -> str:
    """The engine that computes: of ``hosted:lab:small``, ``lab``."""
    engine, target = split_model(model)
    return split_model(target)[0] if engine == HOSTED else engine


def settings_field(engine: str) -> str | None:
    """The part of the configuration that holds an engine's arguments; None if it takes none."""
    field = _SETTINGS_OF.get(engine, engine)
    kind = Settings.model_fields[field].annotation if field in Settings.model_fields else None
    return field if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def engine_settings(
    entry: ModelEntry, settings: Settings, *, name: str = "", environ: Mapping[str, str] | None = None
) -> Settings:
    """The configuration with the entry's engine arguments in place of its own: what ``open_model(entry.model, ...)``
    is to be given, also in a replica.

    A configured key goes along only to the address it was configured for.

    Args:
        entry: The model.
        settings: The configuration of the process that opens it.
        name: What the fleet calls the model, for errors.
        environ: Variables that ``${NAME}`` stands for; those of this process by default.

    Raises:
        InvalidRequest: An argument is unknown, has no such value, or names a variable that is not set.
    """
    if not entry.engine:
        return settings
    place = f"models.{name}.engine" if name else "engine"
    engine = engine_of(entry.model)
    field = settings_field(engine)
    if field is None:
        raise InvalidRequest(
            f"{place}: engine {engine!r} of {entry.model!r} takes no arguments; leave {', '.join(entry.engine)} away",
            field=place,
        )
    given = expanded(entry.engine, os.environ if environ is None else environ, at=place)
    own: BaseModel = getattr(settings, field)
    values = own.model_dump(exclude_unset=True)
    if given.get("base_url", values.get("base_url")) != values.get("base_url"):
        values.pop("api_key", None)
    try:
        checked = type(own).model_validate({**values, **given})
    except ValidationError as error:
        raise _refused(error, own, place) from None
    return settings.model_copy(update={field: checked})


def _refused(error: ValidationError, own: BaseModel, place: str) -> InvalidRequest:
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(sorted(type(own).model_fields))
        return InvalidRequest(f"{place} has no argument {name!r}; known: {known}", field=f"{place}.{name}")
    field = type(own).model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    is_secret = field is not None and SecretStr.__name__ in repr(field.annotation)
    shown = "..." if is_secret else repr(problem.get("input"))[:100]
    reason = problem["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{place}.{name} = {shown} is not valid: {reason}", field=f"{place}.{name}")


async def open_entry(name: str, fleet: FleetFile, *, settings: Settings) -> Engine:
    """One model of a fleet file, by its name there: from the fleet's cluster if it has one, else in this process.

    Raises:
        TtcError: What opening the model raises; the message names the entry.
    """
    entry = fleet.models[name]
    if fleet.has_cluster:
        text, with_arguments = f"ray:{name}", cluster_settings(fleet, settings)
    else:
        text, with_arguments = entry.model, engine_settings(entry, settings, name=name)
    try:
        engine = await open_model(text, settings=with_arguments)
    except TtcError as error:
        located = f"{fleet.shown_path}: models.{name}: {error.message}"
        raise from_fields({**error.fields(), "message": located}) from None
    return as_member(engine, name=name, prices=entry.prices.per_token(gpus=entry.accelerator.gpus))


def cluster_settings(fleet: FleetFile, settings: Settings) -> Settings:
    """The configuration by which ``ray:NAME`` finds the fleet's cluster.

    Raises:
        InvalidRequest: It is this machine's, and was not started.
    """
    cluster = fleet.cluster
    address = local_address(cluster.namespace) if cluster.ray == LOCAL else cluster.ray
    found = settings.ray.model_copy(update={"address": address, "namespace": cluster.namespace})
    return settings.model_copy(update={"ray": found})


async def open_fleet_file(
    fleet: FleetFile,
    *,
    settings: Settings,
    opened: list[Engine],
    overrides: Mapping[str, str | Path | Engine] | None = None,
) -> Fleet:
    """The open models of a fleet file, by their names there.

    Args:
        fleet: The file.
        settings: The configuration.
        opened: Is given each engine that is opened here, also when a later one fails; the caller closes them.
        overrides: Role to a model that plays it instead: a name of this fleet, another model, or an engine.

    Raises:
        InvalidRequest: No model is to play ``small``.
        TtcError: What opening a model raises.
    """
    roles = dict(fleet.roles)
    others: dict[str, str | Path | Engine] = {}
    for role, wanted in (overrides or {}).items():
        if isinstance(wanted, str) and wanted in fleet.models:
            roles[role] = wanted
        else:
            others[role] = wanted
    if "small" not in roles and "small" not in others:
        raise InvalidRequest(
            f"{fleet.shown_path}: no model has the role small, which jobs use unless they name a model; add "
            f'roles = ["small"] to one of: {", ".join(fleet.models)}',
            field="roles",
        )
    engines = await _open_all(fleet, settings=settings, opened=opened)
    for role, wanted in others.items():
        engine = await open_model(str(wanted), settings=settings) if isinstance(wanted, str | Path) else wanted
        if engine is not wanted:
            opened.append(engine)
        roles[role] = free_name(engine.describe().name, engines)
        engines[roles[role]] = engine
    return Fleet(engines, roles)


async def _open_all(fleet: FleetFile, *, settings: Settings, opened: list[Engine]) -> dict[str, Engine]:
    """Models of a cluster at once, since most of it is waiting; models of this process one after the other."""
    engines: dict[str, Engine] = {}
    turn = asyncio.Semaphore(len(fleet.models) if fleet.has_cluster else 1)

    async def open_one(name: str) -> None:
        async with turn:
            engines[name] = await open_entry(name, fleet, settings=settings)
            opened.append(engines[name])

    try:
        async with asyncio.TaskGroup() as tasks:
            for name in fleet.models:
                tasks.create_task(open_one(name))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return {name: engines[name] for name in fleet.models}


def recorded_models(
    fleet: FleetFile, overrides: Mapping[str, str | Path | Engine] | None = None
) -> dict[str, str | Path | Engine]:
    """Role to what opens its model, as jobs record it to be resumed without the file; ``overrides`` as above."""
    roles: dict[str, str | Path | Engine] = {**fleet.roles, **(overrides or {})}
    return {role: _text_of(named, fleet) if isinstance(named, str) else named for role, named in roles.items()}


def _text_of(named: str, fleet: FleetFile) -> str:
    if named not in fleet.models:
        return named
    return f"ray:{named}" if fleet.has_cluster else fleet.models[named].model
