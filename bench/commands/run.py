"""``ttc bench run``: the policies of a suite on its problems, live or on recorded pools."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.api.terminal.options import ModelChoice, json_option, model_options
from orchestrator.api.terminal.pulling import pull_missing
from orchestrator.api.terminal.running import NO_ANSWER
from orchestrator.api.terminal.shutdown import stopping_gently
from orchestrator.bench.commands.options import data_option, jobs_option, whole_numbers
from orchestrator.bench.commands.progress import Standing, showing_progress
from orchestrator.bench.commands.run_table import print_run
from orchestrator.bench.runs.suite import Suite, find_suite, read_suite
from orchestrator.bench.runs.suite_file import ModelNames
from orchestrator.config import read_settings
from orchestrator.errors import InvalidRequest

if TYPE_CHECKING:
    from orchestrator.bench.runs.running import BenchRun

_OUT = Path("build/bench")


@click.command()
@click.argument("suite")
@model_options
@click.option("--pool", "pools", multiple=True, metavar="FILE", help="Replay on this pool, not on the suite's sets.")
@click.option("--out", metavar="FILE", help="Rows are added here.  [default: build/bench/NAME.jsonl]")
@jobs_option
@click.option("--seeds", metavar="N,N,...", help="In place of the suite's.")
@click.option("--problems", type=click.IntRange(1), metavar="N", help="Only the first N problems of each set.")
@click.option("--set", "sets", multiple=True, metavar="TEXT", help="Only sets whose name holds TEXT; repeatable.")
@click.option("--policy", "labels", multiple=True, metavar="TEXT", help="Only policies whose label holds TEXT.")
@data_option
@click.option("--retry-failed", is_flag=True, help="Run jobs again that failed in an earlier run.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option("the table as a JSON object")
def run(
    *,
    suite: str,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    pools: tuple[str, ...],
    out: str | None,
    num_at_once: int,
    seeds: str | None,
    problems: int | None,
    sets: tuple[str, ...],
    labels: tuple[str, ...],
    data: str | None,
    retry_failed: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Measure the policies of SUITE: the name of one of ours, or a .toml file.

    Each policy gets each problem under each budget with each seed. Every job is a row of --out, with its answer and
    all it has used. A run that was interrupted (Ctrl-C), or whose suite has grown, goes on where it stopped: jobs that
    have a row are not run again. Jobs of one problem have the same seed under all policies and budgets, so that they
    can be compared in pairs.

    With --pool nothing is generated: samples are drawn from a recorded pool, without replacement. What a pool cannot
    stand for (continued texts, other temperatures, a large model that has no pool) is named and left out. Other
    models may be pools too: --large pool:FILE.

    Exit code 5 says that no job could be run, or that all have failed.

    \b
    Examples:
      ttc bench run smoke
      ttc bench run live --model lab:small --problems 20
      ttc bench run mine.toml --data datasets --model qwen2.5-coder-0.5b --jobs 4 --out mine.jsonl
      ttc bench run smoke --pool mine.pool.xz --large pool:larger.pool.xz --seeds 1,2,3
      ttc bench run mine.toml --dry-run
    """  # noqa: D301  # click wants the character
    from orchestrator.bench.runs.plan import Plan
    from orchestrator.bench.runs.row_file import RowFile
    from orchestrator.bench.runs.running import BenchRun
    from orchestrator.bench.runs.scenarios import Wish, open_scenarios

    choice = ModelChoice.of_options(model, large, verifier_model)
    settings = read_settings()
    narrowed = _narrowed(read_suite(find_suite(suite)), labels, whole_numbers("seeds", seeds))
    wish = Wish(
        models=ModelNames(small=choice.small, large=choice.large, verifier=verifier_model),
        pools=pools,
        sets=sets,
        data=None if data is None else Path(data),
        num_problems=problems,
    )
    plan = Plan(narrowed, open_scenarios(narrowed, wish, settings))
    path = Path(out) if out is not None else _OUT / f"{narrowed.name}.jsonl"
    with RowFile(path, is_read_only=dry_run) as rows:
        if retry_failed and not dry_run:
            rows.drop(lambda row: row.suite == narrowed.name and row.error is not None)
        bench_run = BenchRun(plan, rows, settings)
        signal_exit = None if dry_run else _carried_out(bench_run, num_at_once=num_at_once, is_quiet=quiet)
        print_run(bench_run, as_json=as_json, is_dry=dry_run)
    if signal_exit is not None:
        return signal_exit
    progress = bench_run.progress
    num_usable = progress.num_skipped + progress.num_done - progress.num_failed
    return 0 if num_usable or (dry_run and progress.num_jobs) else NO_ANSWER


def _narrowed(suite: Suite, labels: tuple[str, ...], seeds: tuple[int, ...]) -> Suite:
    """The suite with the policies that are wanted, and other seeds if any are given."""
    chosen = tuple(
        strategy for strategy in suite.strategies if not labels or any(part in strategy.label for part in labels)
    )
    if not chosen:
        known = ", ".join(strategy.label for strategy in suite.strategies)
        raise InvalidRequest(
            f"no policy of {suite.name} is like {', '.join(labels)}; it has: {known}", field="policy", value=labels
        )
    return replace(suite, strategies=chosen, seeds=seeds or suite.seeds)


def _carried_out(bench_run: BenchRun, *, num_at_once: int, is_quiet: bool) -> int | None:
    """Runs what is pending; returns what to exit with if a signal ended that."""
    progress = bench_run.progress
    if progress.num_skipped == progress.num_jobs:
        return None
    plan = bench_run.plan
    models = [model for scenario in plan.scenarios for model in plan.models_of(scenario).values()]
    pull_missing([model for model in models if isinstance(model, str)], is_quiet=is_quiet)

    def standing() -> Standing:
        words = f"{progress.num_correct / progress.num_done:.1%} right" if progress.num_done else ""
        if progress.num_failed:
            words += f", {progress.num_failed:,} failed"
        return Standing(progress.num_skipped + progress.num_done, progress.num_jobs, words.replace("%", " %"))

    async def work() -> int | None:
        with stopping_gently(bench_run.stop) as interruption:
            async with showing_progress("jobs", standing, is_quiet=is_quiet):
                await bench_run.run(num_at_once=num_at_once)
        return interruption.exit_code

    return asyncio.run(work())
