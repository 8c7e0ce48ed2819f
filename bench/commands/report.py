"""``ttc bench report``: tables and plots of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import click

from orchestrator.api.terminal.options import json_option
from orchestrator.bench.commands.options import (
    baseline_option,
    curves_option,
    margin_option,
    read_files,
    target_option,
)
from orchestrator.errors import InvalidRequest

_OUT = Path("build/bench/report")


@click.command()
@click.argument("rows", metavar="ROWS...", nargs=-1, required=True)
@click.option("--out", metavar="DIR", default=str(_OUT), show_default=True, help="Where the files go.")
@click.option("--title", metavar="TEXT", help="Of the page.  [default: the files' names]")
@baseline_option
@curves_option
@target_option
@margin_option
@json_option("the files that were written as a JSON array")
def report(
    *,
    rows: tuple[str, ...],
    out: str,
    title: str | None,
    baseline: str | None,
    is_by_curves: bool,
    target: float | None,
    margin: float,
    as_json: bool,
) -> None:
    """Write a report of ROWS, which are files of `ttc bench run`: Markdown, plots, and one page of HTML.

    Accuracy is shown against output tokens, total tokens, effective FLOPs, dollars and wall-clock time, as far as they
    were measured, with 95 % intervals and with paired differences to the baseline.

    \b
    Examples:
      ttc bench report build/bench/smoke.jsonl
      ttc bench report small.jsonl large.jsonl --out report --title "Small and large"
    """  # noqa: D301  # click wants the character
    from orchestrator.bench.analysis.page import write_report

    named = title or ", ".join(Path(name).stem for name in rows)
    try:
        written = write_report(
            read_files(rows, is_by_curves=is_by_curves),
            Path(out),
            named,
            baseline=baseline,
            target=target,
            margin=margin,
        )
    except OSError as error:
        raise InvalidRequest(f"cannot write to --out {out!r}: {error.strerror}", field="out", value=out) from error
    if as_json:
        click.echo(json.dumps([str(path) for path in written]))
        return
    for path in written:
        click.echo(path)
