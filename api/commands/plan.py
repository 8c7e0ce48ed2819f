"""``ttc plan``: the cheapest GPUs that serve a load within its objectives, and the files that start them."""

from __future__ import annotations

import importlib

import click

_COMMANDS: dict[str, str] = {}
"""Subcommands, imported when they are called: name -> ``module:command``."""


class _PlanCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_PlanCommands, invoke_without_command=True)
@click.pass_context
def plan(ctx: click.Context) -> None:
    """Plan a fleet: which GPUs, how many, at what cost."""
    if ctx.invoked_subcommand is not None:
        return
