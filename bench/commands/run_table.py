"""What came of ``ttc bench run``: a table for people, or the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import click

from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.wording import printable
from orchestrator.bench.runs.plan import Refusal
from orchestrator.bench.runs.running import BenchRun
from orchestrator.bench.runs.tally import Cell, CellKey, cells


def print_run(run: BenchRun, *, as_json: bool, is_dry: bool) -> None:
    """Prints the cells of a run, what could not be run, and what else there is to know of it."""
    found = cells(run.plan, run.rows)
    if as_json:
        click.echo(json.dumps(_as_json(run, found), indent=2))
        return
    if found:
        _print_table(found)
    for line in _told(run.plan.refusals):
        click.echo(printable(line, is_line=True))
    progress = run.progress
    if progress.num_unscored:
        reason = printable(progress.unscored_reason, is_line=True)
        click.echo(f"warning: {progress.num_unscored:,} texts could not be scored ({reason})", err=True)
    if progress.num_short:
        words = f"warning: pools were {progress.num_short:,} samples short of what policies asked for"
        click.echo(f"{words}; these went on with fewer", err=True)
    num_left = progress.num_jobs - progress.num_skipped - progress.num_done
    words = f"{progress.num_jobs:,} jobs: " + ("" if is_dry else f"{progress.num_done:,} run now, ")
    words += f"{progress.num_skipped:,} from an earlier run"
    if num_left:
        words += f", {num_left:,} to be run"
    if progress.num_failed:
        words += f", {progress.num_failed:,} failed and counted as wrong (--retry-failed runs them again)"
    click.echo(f"{words} · {run.rows.path}", err=True)


def _told(refusals: Sequence[Refusal]) -> Iterator[str]:
    """Refusals in words; those with the same reason in one line."""

    def reason(refusal: Refusal) -> tuple[str, str, str, str]:
        return refusal.set, refusal.model, refusal.budget or "", refusal.reason

    for _, group in groupby(sorted(refusals, key=reason), key=reason):
        first, *others = group
        labels = ", ".join(refusal.label for refusal in (first, *others))
        under = f" under {first.budget}" if first.budget is not None else ""
        verb = "replayed" if first.is_replayed else "run"
        yield f"{labels} on {first.set}{under} cannot be {verb}: {first.reason}"


def _print_table(found: dict[CellKey, Cell]) -> None:
    from rich.table import Table

    has_models = len({key.model for key in found}) > 1
    table = Table(box=None, pad_edge=False)
    for name in ("set", *(("model",) if has_models else ()), "policy", "budget"):
        table.add_column(name, no_wrap=True)
    for name in ("jobs", "right", "output tokens", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for key, cell in found.items():
        table.add_row(
            key.set,
            *((key.model,) if has_models else ()),
            key.label,
            key.budget or "none",
            f"{cell.num_jobs:,}",
            f"{cell.accuracy:.1%}".replace("%", " %"),
            f"{cell.mean_output_tokens:,.1f}",
            f"{cell.num_failed:,}" if cell.num_failed else "",
        )
    result_console().print(table)


def _as_json(run: BenchRun, found: dict[CellKey, Cell]) -> dict[str, Any]:  # Any: JSON values
    progress = run.progress
    return {
        "suite": run.plan.suite.name,
        "rows": str(run.rows.path),
        "num_jobs": progress.num_jobs,
        "num_skipped": progress.num_skipped,
        "num_done": progress.num_done,
        "num_failed": progress.num_failed,
        "num_unscored": progress.num_unscored,
        "num_short": progress.num_short,
        "cells": [
            {
                **key._asdict(),
                "num_jobs": cell.num_jobs,
                "accuracy": cell.accuracy,
                "mean_output_tokens": cell.mean_output_tokens,
                "num_failed": cell.num_failed,
            }
            for key, cell in found.items()
        ],
        "refused": [
            {
                "set": refusal.set,
                "model": refusal.model,
                "label": refusal.label,
                "budget": refusal.budget,
                "reason": refusal.reason,
            }
            for refusal in run.plan.refusals
        ],
    }
