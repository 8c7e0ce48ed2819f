"""The command ``ttc``: finds its subcommands by name, and turns whatever goes wrong into one line and an exit code.

What errors look like and which exit code they give is decided in `orchestrator.api.terminal.failures`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import click

from orchestrator.api.terminal import failures
from orchestrator.api.terminal.log import send_logs_to_file
from orchestrator.errors import RunFailure, UnknownName

GROUP = "orchestrator.commands"
"""Entry points: name -> click command."""

SUMMARIES = {
    "bench": "Measure strategies at equal cost: run, report, compare, record, load.",
    "controller": "Run queued jobs of a shared store.",
    "engines": "Describe the engines that run models.",
    "fleet": "Run the models of a fleet file on a cluster; check whether it fits.",
    "jobs": "List, show, resume and remove jobs.",
    "keys": "Make, list and revoke API keys of the service.",
    "mcp": "Serve the Model Context Protocol, for agents.",
    "models": "Get the model files that run on this machine.",
    "plan": "Plan a fleet: which GPUs, how many, at what cost.",
    "policies": "Describe the policies: how a budget is spent.",
    "replay": "Run a job again from its journal, without a model.",
    "serve": "Serve jobs over HTTP, with a dashboard.",
    "solve": "Solve a problem, or a file of problems, under a budget.",
    "submit": "Solve a file of problems on a Ray cluster.",
    "verifiers": "Describe the verifiers: who says whether an answer is right.",
}
"""Of our own commands, so that ``ttc --help`` need not import them; other packages' commands are imported for it."""

_CLOSED_PIPE = 128 + 13
_CTRL_C = 130


class _ClosedPipe(Exception):  # not an error: the reader has seen enough
    """Whoever read our output has gone."""


class Commands(click.Group):
    """Subcommands from entry points, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """All names, sorted; nothing is imported."""
        return sorted(_entries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name.

        Raises:
            UnknownName: There is none.
            RunFailure: Another package's command cannot be imported.
        """
        entry = _entries().get(cmd_name)
        if entry is None:
            raise UnknownName(kind="command", name=cmd_name, known=_entries())
        return _load(entry)

    def invoke(self, ctx: click.Context) -> Any:  # Any: what the command returns
        """Runs the command; a closed pipe is kept from click, which would exit with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _ClosedPipe from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """One line per command."""
        rows = [(name, _summary(entry)) for name, entry in sorted(_entries().items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ttc-orchestrator"), prog_name="ttc")
def ttc() -> None:
    """Spend inference compute where it pays: solve problems with language models under a budget that holds.

    \b
    Start here:
      ttc solve "What is 17 * 23?" --budget tokens=2000
      ttc policies

    \b
    Exit codes:
      0  done                        6  a model could not be had or run
      1  failed in another way       7  a policy or a verifier failed
      2  the request is at fault     8  a replay differs from its journal
      3  a package is not installed  9  the store cannot be read or written
      4  conflict with a job         130  Ctrl-C
      5  no answer within the budget

    Results go to stdout; progress and errors to stderr. With --json an error is one JSON object on stderr:
    {"error": {"code", "message", ...}, "exit_code"}.
    """  # noqa: D301  # click wants the character


def main(args: Sequence[str] | None = None) -> int:
    """Runs ``ttc`` and returns its exit code; no exception leaves it."""
    given = sys.argv[1:] if args is None else list(args)
    wants_json = "--json" in given
    _never_fail_to_print()
    log_file = send_logs_to_file()
    try:
        outcome = ttc.main(given, prog_name="ttc", standalone_mode=False)
        sys.stdout.flush()
    except (_ClosedPipe, BrokenPipeError):
        _discard_output()
        return _CLOSED_PIPE
    except (click.Abort, KeyboardInterrupt):
        click.echo("cancelled", err=True)
        return _CTRL_C
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except BaseException as error:  # noqa: BLE001  # nothing but a line may reach the user
        return failures.report(error, as_json=wants_json, log_file=log_file)
    return outcome if isinstance(outcome, int) else 0


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except Exception as error:
        raise RunFailure(f"command {entry.name!r} of {_owner(entry)} is broken: {error!r}") from error
    if not isinstance(command, click.Command):
        raise RunFailure(f"command {entry.name!r} of {_owner(entry)} is broken: {entry.value} is no click command")
    return command


def _summary(entry: EntryPoint) -> str:
    if entry.value.startswith("orchestrator.") and entry.name in SUMMARIES:
        return SUMMARIES[entry.name]
    try:
        return _load(entry).get_short_help_str(80)
    except RunFailure as error:
        return f"(broken) {error}"


def _owner(entry: EntryPoint) -> str:
    return repr(entry.dist.name) if entry.dist is not None else "an unknown package"


def _never_fail_to_print() -> None:
    """Text that the terminal cannot show is escaped instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Keeps the interpreter from writing the rest to the closed pipe when it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends


if __name__ == "__main__":
    sys.exit(main())
