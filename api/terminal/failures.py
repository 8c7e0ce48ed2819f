"""Errors as people and scripts see them: a line (or a JSON object) on stderr and an exit code; never a stack trace."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from typing import Any

import click

from orchestrator.api.terminal.log import is_debugging
from orchestrator.api.terminal.wording import printable
from orchestrator.errors import CapabilityMissing, TtcError, UnknownName, mapping_of

_LOG = logging.getLogger(__name__)

_BAD_USAGE = 2
_UNEXPECTED = 1

_LISTINGS = {
    "policy": "ttc policies",
    "verifier": "ttc verifiers",
    "engine": "ttc engines",
    "model": "ttc models list",
    "job": "ttc jobs list",
    "command": "ttc --help",
}
"""Which command lists what exists, by the kind of an unknown name."""

_WAYS_OUT = {"store_failed": "--store PATH keeps jobs elsewhere; ttc solve --no-store keeps none"}
"""By code of the error."""

_MODELS_THAT_CAN = {
    "rewards of steps": "process reward models give them: --verifier-model MODEL, e.g. lab:prm or reward:ADDRESS",
}
"""Where to find what a model lacks, by capability."""


def report(error: BaseException, *, as_json: bool, log_file: Path | None) -> int:
    """Prints an error to stderr; what nobody foresaw goes to the log with its stack trace.

    Returns:
        The exit code.
    """
    error = _innermost(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return _BAD_USAGE
    if isinstance(error, TtcError):
        fields, code = error.fields(), mapping_of(error).exit_code
        hint = _hint(error)
    elif isinstance(error, click.ClickException):
        fields, code = {"code": "bad_usage", "message": error.format_message()}, _BAD_USAGE
        hint = _usage_hint(error)
    else:
        fields, code, hint = _unexpected(error, log_file), _UNEXPECTED, ""
    if is_debugging():
        traceback.print_exception(error)
    if as_json:
        click.echo(json.dumps({"error": fields, "exit_code": code}, default=str), err=True)
        return code
    click.echo(f"error: {printable(str(fields['message']), is_line=True)}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code


def _innermost(error: BaseException) -> BaseException:
    """The error that an exception group of our task groups carries."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.split(TtcError)[0]
        error = (ours or error).exceptions[0]
    return error


def _unexpected(error: BaseException, log_file: Path | None) -> dict[str, Any]:  # Any: JSON values
    _LOG.critical("unexpected error", exc_info=error)
    where = f"its stack trace is in {log_file}" if log_file is not None else "TTC_DEBUG=1 shows its stack trace"
    brief = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    message = f"an unexpected error, which is a bug in ttc or in a plug-in ({brief}); {where}"
    return {"code": "unexpected", "message": message, "log_file": str(log_file) if log_file is not None else None}


def _hint(error: TtcError) -> str:
    if isinstance(error, UnknownName):
        listing = _LISTINGS.get(error.kind)
        return f"{listing} shows what there is" if listing else ""
    if isinstance(error, CapabilityMissing):
        return _MODELS_THAT_CAN.get(error.capability, "")
    return _WAYS_OUT.get(error.code, "")


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else ""
