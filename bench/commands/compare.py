"""``ttc bench compare``: what strategies cost at equal accuracy, and how right they are at equal cost."""

from __future__ import annotations

import json

import click

from orchestrator.api.terminal.options import json_option
from orchestrator.bench.analysis.axes import AXES
from orchestrator.bench.commands.options import (
    baseline_option,
    curves_option,
    margin_option,
    read_files,
    target_option,
)


@click.command()
@click.argument("rows", metavar="ROWS...", nargs=-1, required=True)
@baseline_option
@curves_option
@click.option(
    "--axis", type=click.Choice(list(AXES)), default="output_tokens", show_default=True, help="What cost is counted in."
)
@target_option
@margin_option
@json_option("the comparison as a JSON object")
def compare(
    *,
    rows: tuple[str, ...],
    baseline: str | None,
    is_by_curves: bool,
    axis: str,
    target: float | None,
    margin: float,
    as_json: bool,
) -> None:
    """Compare the strategies in ROWS, which are files of `ttc bench run`.

    For each set of problems: accuracy against cost; each strategy's difference to the baseline under equal budgets,
    problem by problem; and the cost that it needs for the accuracy of the baseline, as a ratio (below 1 is cheaper).
    All come with 95 % intervals, which are bootstrapped over problems.

    \b
    Examples:
      ttc bench compare build/bench/smoke.jsonl --baseline self_consistency
      ttc bench compare build/bench/smoke.jsonl --axis effective_flops --target 0.6
      ttc bench compare small.jsonl large.jsonl --json
    """  # noqa: D301  # click wants the character
    from orchestrator.bench.analysis.comparison import compare as compare_rows

    comparison = compare_rows(
        read_files(rows, is_by_curves=is_by_curves), baseline=baseline, axis=axis, target=target, margin=margin
    )
    click.echo(json.dumps(comparison.to_json(), indent=2) if as_json else "\n".join(comparison.lines()))
