"""``ttc bench``: finds its commands by name, each imported when it is called."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click

from orchestrator.errors import UnknownName


class _Entry(NamedTuple):
    place: str
    summary: str


_COMMANDS = {
    "compare": _Entry("orchestrator.bench.commands.compare:compare", "What strategies cost at equal accuracy."),
    "load": _Entry("orchestrator.bench.load:load", "Put a running endpoint under load."),
    "record": _Entry("orchestrator.bench.commands.record:record", "Record a pool of samples to replay strategies on."),
    "report": _Entry("orchestrator.bench.commands.report:report", "Tables and plots of what was measured."),
    "run": _Entry("orchestrator.bench.commands.run:run", "Measure the strategies of a suite."),
    "score": _Entry("orchestrator.bench.commands.score:score", "Score the steps of a recorded pool."),
}


class _BenchCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            raise UnknownName(kind="command of ttc bench", name=cmd_name, known=_COMMANDS)
        module, _, name = entry.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


@click.command(cls=_BenchCommands)
def bench() -> None:
    """Measure strategies at equal cost.

    A suite names problems, policies and budgets. `run` measures them on live models or on recorded pools and writes a
    row for every job; `report` and `compare` read these rows; `record` makes a pool once, on which any number of
    strategies can be replayed without a model; `load` measures a running endpoint.

    \b
    Start here:
      ttc bench run smoke
      ttc bench report build/bench/smoke.jsonl
      ttc bench compare build/bench/smoke.jsonl --baseline self_consistency
    """  # noqa: D301  # click wants the character
