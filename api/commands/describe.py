"""``ttc policies``, ``ttc verifiers``, ``ttc engines``: what there is, with parameters and sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from orchestrator.api.descriptions import Description, described_engines, described_policies, described_verifiers
from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.options import json_option
from orchestrator.errors import UnknownName

_Command = TypeVar("_Command", bound=Callable[..., Any])  # Any: click passes options by name


def _arguments(command: _Command) -> _Command:
    return click.argument("name", required=False)(json_option("JSON")(command))


@click.command()
@_arguments
def policies(*, name: str | None, as_json: bool) -> None:
    """Describe the policies, or one of them with its parameters.

    Some sample whole solutions and vote or choose; others search over steps, and need somebody who scores steps.

    \b
    Examples:
      ttc policies self_consistency
      ttc policies ets
    """  # noqa: D301  # click wants the character
    _print("policy", described_policies(), name, as_json=as_json)


@click.command()
@_arguments
def verifiers(*, name: str | None, as_json: bool) -> None:
    """Describe the verifiers, or one of them with its parameters."""
    _print("verifier", described_verifiers(), name, as_json=as_json)


@click.command()
@_arguments
def engines(*, name: str | None, as_json: bool) -> None:
    """Describe the engines, or one of them: what they need, and how a model is named."""
    _print("engine", described_engines(), name, as_json=as_json)


def _print(kind: str, found: Sequence[Description], name: str | None, *, as_json: bool) -> None:
    known = {description.name: description for description in found}
    if name is not None and name not in known:
        raise UnknownName(kind=kind, name=name, known=known)
    if as_json:
        data = [description.to_json() for description in found] if name is None else known[name].to_json()
        click.echo(json.dumps(data, indent=2))
    elif name is None:
        _print_list(found)
    else:
        _print_one(known[name])


def _print_list(found: Sequence[Description]) -> None:
    from rich.table import Table

    console = result_console()
    kinds = sorted({description.facts.get("kind", "") for description in found})
    for kind in kinds:
        if len(kinds) > 1:
            console.print(f"{kind or 'not usable'}:")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for description in found:
            if description.facts.get("kind", "") == kind:
                summary = description.summary if not description.problem else f"(not usable) {description.problem}"
                table.add_row(f"  {description.name}" if len(kinds) > 1 else description.name, summary)
        console.print(table)


def _print_one(description: Description) -> None:
    from rich.table import Table

    console = result_console()
    console.print(f"{description.name}: {description.summary}")
    for name, value in description.facts.items():
        console.print(f"  {name}: {value}")
    if description.problem:
        console.print(f"  not usable: {description.problem}")
    if not description.parameters:
        return
    console.print()
    table = Table("parameter", "type", "default", "range", "meaning", box=None, pad_edge=False)
    for item in description.parameters:
        table.add_row(item.name, item.type, item.default, item.range, item.meaning)
    console.print(table)
